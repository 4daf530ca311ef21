"""Readers of the kinds of source that the ingest stage knows; each gives records, and says what it could not use."""

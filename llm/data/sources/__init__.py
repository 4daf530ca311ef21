"""Stage ingest: a reader for each kind of source, which gives records and says what it could not use."""

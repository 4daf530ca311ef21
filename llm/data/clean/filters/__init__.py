"""Quality filters out of papers."""

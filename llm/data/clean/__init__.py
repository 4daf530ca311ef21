"""Documents out of web pages and texts: extraction, filters, personal data."""

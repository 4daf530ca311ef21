"""Stage clean: documents out of pages and texts by extraction, language, filters, masking of personal data."""

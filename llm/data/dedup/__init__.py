"""Stage dedup: one document of each cluster of exact and near duplicates, without repeated paragraphs."""

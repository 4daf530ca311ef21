"""One document of each cluster of exact and near duplicates."""

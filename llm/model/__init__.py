"""The language model: its layers, its files, its sampling."""

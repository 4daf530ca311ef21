"""Stage decontaminate: documents that give no benchmark item away, by an index of n-grams."""

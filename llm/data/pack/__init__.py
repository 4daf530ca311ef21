"""Stage shard: documents as packed sequences of tokens."""

"""What several stages of data share: partitions, drops, canary checks, WARC, words and their hashes."""

"""What several stages share: partitions, drops, canaries, WARC, words and their hashes."""

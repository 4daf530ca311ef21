"""Stage tokenizer, and its use in all others: byte-level BPE, training, encoding, the chat format, import."""

"""Byte-level BPE: training, encoding, the chat format."""

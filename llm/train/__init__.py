"""Training: batches, optimizer, loop, checkpoints."""

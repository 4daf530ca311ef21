"""What all stages that train share: batches, optimizer, loop, checkpoints, several processes."""

"""Writing checkpoints in other number formats."""

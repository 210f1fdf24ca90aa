"""State, the mapped training step, checkpoints, metrics and the loop."""

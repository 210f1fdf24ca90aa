"""What a training step costs: time, operations, memory, and the same step in another library."""

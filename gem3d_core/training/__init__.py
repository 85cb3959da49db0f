"""Training: batches, the loop, several processes."""

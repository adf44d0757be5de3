"""The training run: one loop from the first stage to the last, its checkpoints and its metrics."""

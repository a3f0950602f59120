"""The loop and what surrounds it: hooks, checkpoints, ranks, precision, logs, validation."""

"""Tasks (named distributions over degradation parameters), sets of them, and who chooses the task of each sample."""

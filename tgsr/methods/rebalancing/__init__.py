"""Controlled Data Rebalancing: task subspaces, difficulty weights, sample counts."""

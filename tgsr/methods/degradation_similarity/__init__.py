"""GRIDS: similarity of degradations, grouping search, adaptive selection."""

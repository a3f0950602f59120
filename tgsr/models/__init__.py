"""Networks + losses + optimisers + EMA. No degradation, no files."""

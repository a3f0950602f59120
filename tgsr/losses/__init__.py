"""Losses: per sample, `(B,)`, one class or function each."""

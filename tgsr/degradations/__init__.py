"""Degradations: what can be sampled (spaces), the drawn numbers (params), and their application to images (pipelines)."""

"""Degradations: what can be sampled (spaces), the drawn numbers (params), their application to images (pipelines)."""

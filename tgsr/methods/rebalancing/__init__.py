"""Controlled Data Rebalancing: task subspaces, difficulty weights, sample counts.

"Controlled Data Rebalancing in Multi-Task Learning for Real-World Image Super-Resolution", section by section:
`boxes.py` (3.1: tasks as boxes of the degradation space), `discrimination.py` (3.1: which operators make tasks),
`references.py` and `weights.py` (3.2: single-task networks, PSNR distances, weights), `sampling.py` (3.3: weights become
sample counts) and `weighting.py` (its alternatives, tables 4 and 5), `variance.py` (A.2.2: conclusion 2, measured).
`stages.py` runs them, `comparison.py` and `paper_tables.py` report.
"""

from tgsr.methods.rebalancing import boxes, references, sampling, weighting

__all__ = ["boxes", "references", "sampling", "weighting"]

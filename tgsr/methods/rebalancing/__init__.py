"""Controlled Data Rebalancing: task subspaces, difficulty weights, sample counts.

"Controlled Data Rebalancing in Multi-Task Learning for Real-World Image Super-Resolution", section by section:
`boxes.py` (3.1: tasks as boxes of the degradation space), `discrimination.py` (3.1: which operators make tasks),
`weights.py`, `difficulty.py` and `references.py` (3.2: PSNR distances to single-task networks become weights),
`sampling.py` (3.3: weights become sample counts), `weighting.py` (the alternatives of tables 4 and 5), `variance.py`
(A.2.2: conclusion 2, measured), `drift.py` (Fig. 5 a: TGSR's groups at two checkpoints). `groups.py` balances groups
of other tasks; `stages.py` runs the training; `comparison.py` measures and reports; `printed.yml` holds what the paper
prints.
"""

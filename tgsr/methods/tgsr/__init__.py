"""TGSR (Zhang et al. 2023): find the degradation tasks a network fails on, group them, fine-tune on the groups.

The paper's algorithm reads in three files: `indicator.py` (equations 3 and 4), `selection.py` (which tasks are
unsatisfactory) and `grouping.py` (Algorithm 1, equation 5). `artefacts.py` holds what the stages exchange. The stages
are runners: `MakeTasks`, `IndicatorSweep`, `GroupTasks`, then plain training with a `GroupedTaskSampler`,
`SingleTaskGains`, `CompareOnTasks`, `GroupingReport`. `printed.yml` is what the paper prints.
"""

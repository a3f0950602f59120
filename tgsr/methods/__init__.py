"""One room per paper. Rooms never import each other. Importing this package registers what all of them offer."""

from tgsr.methods import criteria_comparative, degradation_similarity, rebalancing, task_grouping

__all__ = ["criteria_comparative", "degradation_similarity", "rebalancing", "task_grouping"]

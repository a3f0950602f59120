"""The weights of a run: fed with validation results every interval, compared with references (sections 3.2, A.4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tgsr.methods.rebalancing.references import References
from tgsr.methods.rebalancing.weights import difficulty_weights, performance_distance
from tgsr.tasks.samplers import Feedback
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tgsr.config.schema import Options


class DifficultyWeights:
    """Equation 4, recomputed at the end of every interval from the validation of the shared network on each task.

    Before the first interval the weights are equal: the shared network and the references start from the same weights,
    so every distance is 0.

    Args:
        tasks: of the run.
        references: `references.json`.
        interval: iterations between updates.
        metric: name under `val.metrics`; more must be better.
        temperature: in dB; 1 is the paper's.
    """

    def __init__(
        self, tasks: TaskSet, *, references: Path | str, interval: int, metric: str = "psnr", temperature: float = 1.0
    ) -> None:
        if interval < 1:
            raise ConfigError(f"interval is {interval}", remedy="give a number of iterations")
        difficulty_weights([0.0], temperature=temperature)
        self.tasks, self.interval, self.metric, self.temperature = tasks, interval, metric, temperature
        self.references = References.load(references)
        self.references.check_tasks(tasks)
        self.values = np.full(len(tasks), 1 / len(tasks))
        self.last: dict[str, Any] = {}

    def check(self, options: Options) -> None:
        """Refuse a run that the references do not fit, and a metric of which less is better."""
        spec = options.val.metrics.get(self.metric)
        if spec is not None and not spec.entry.higher_is_better:
            raise ConfigError(
                f"less of '{self.metric}' is better: a task that lags would get the lowest weight",
                place=f"{options.name}: tasks: metric",
                remedy="weigh tasks by a metric of which more is better, e.g. psnr",
            )
        self.references.check_run(options, interval=self.interval, metric=self.metric)

    def update(self, feedback: Feedback) -> None:
        """New weights from an interval's validation results."""
        names = self.tasks.names
        for name in names:
            if self.metric not in feedback.metrics.get(name, {}):
                raise DataError(f"task '{name}' was not validated with '{self.metric}'", remedy="set val.val_tasks")
        single = {n: self.references.at(n, feedback.iteration, self.metric) for n in names}
        multi = {n: float(feedback.metrics[n][self.metric]) for n in names}
        distances = performance_distance(single, multi)
        self.values = difficulty_weights([distances[n] for n in names], temperature=self.temperature)
        self.last = {"distance": distances, "single": single, "multi": multi, "counts": dict(feedback.counts)}

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.values.tolist(), "tasks": [t.id for t in self.tasks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """DataError when the state is of other tasks."""
        if list(state["tasks"]) != [t.id for t in self.tasks]:
            raise DataError("the checkpoint's weights are of other tasks", remedy="resume with the same tasks section")
        self.values = np.array(state["weights"], dtype=np.float64)

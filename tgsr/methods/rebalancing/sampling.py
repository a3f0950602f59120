"""Controlled data rebalancing: weights become numbers of samples (section 3.3, eq. 5-12, hybrid of A.2.2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tgsr.config.spec import PositiveInt
from tgsr.methods.rebalancing.difficulty import DifficultyWeights
from tgsr.methods.rebalancing.weights import hybrid_split, sample_counts
from tgsr.tasks.samplers import TASK_SAMPLERS, Feedback, TaskSampler
from tgsr.tasks.task import TaskSet
from tgsr.utils.rng import generator

if TYPE_CHECKING:
    from tgsr.config.schema import Options

logger = logging.getLogger("tgsr")


def spread_tasks(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A sequence with exactly `counts[i]` times task `i`, spread evenly with a random phase for each task.

    Any stretch of it holds every task as often as its share says, to within two samples, so that an interval cut
    short by the end of training keeps the shares too.

    Args:
        counts: `(n,)` not negative.
        rng: draws the n phases.

    Returns:
        `(counts.sum(),)` int64.
    """
    phases = rng.random(len(counts))
    places = [(np.arange(c) + phase) / c for c, phase in zip(counts, phases, strict=True) if c]
    if not places:
        return np.empty(0, dtype=np.int64)
    tasks = np.repeat(np.arange(len(counts)), counts)
    return tasks[np.argsort(np.concatenate(places), kind="stable")]


@TASK_SAMPLERS.register()
class RebalancingTaskSampler(TaskSampler):
    """Every task gets `N w_i` of the N samples of an interval, w from PSNR distances to single-task references.

    Counts are those of the global batches of the whole interval, the same on every rank and for any number of
    ranks with the same global batch.

    Args:
        tasks, seed: see `TaskSampler`.
        references: `references.json` of a `SingleTaskReferences` stage.
        interval: iterations between updates of the weights.
        metric: name under `val.metrics`, measured on `val.val_tasks`.
        temperature: weights are exp(DP / temperature); 1 dB is the paper's.
        rule: `rebalancing`: probability w_i. `hybrid`: appendix A.2.2; use it with `HybridLossWeighting`.
        draws: `exact`: the rounded counts exactly; `iid`: independent draws, exact in expectation only.
    """

    needs_metrics = True

    def __init__(
        self,
        tasks: TaskSet,
        *,
        seed: int,
        references: Path,
        interval: PositiveInt = 5000,
        metric: str = "psnr",
        temperature: float = 1.0,
        rule: Literal["rebalancing", "hybrid"] = "rebalancing",
        draws: Literal["exact", "iid"] = "exact",
    ) -> None:
        super().__init__(tasks, seed=seed)
        self.interval = interval
        self.difficulty = DifficultyWeights(
            tasks, references=references, interval=interval, metric=metric, temperature=temperature
        )
        self.rule, self.draws = rule, draws
        self._sequence: tuple[tuple[int, int], np.ndarray] | None = None

    @property
    def weights(self) -> np.ndarray:
        if self.rule == "hybrid":
            return hybrid_split(self.difficulty.values)[0]
        return self.difficulty.values

    def check(self, options: Options) -> None:
        self.difficulty.check(options)

    def draw(self, iteration: int, num: int) -> np.ndarray:
        rng = generator(self.seed, "task", iteration)
        if self.draws == "iid":
            return rng.choice(len(self.tasks), size=num, p=self.weights)
        number, place = divmod(iteration, self.interval)
        chosen = self._interval_tasks(number, num)[place * num : (place + 1) * num]
        return rng.permutation(chosen)  # ranks take every world_size-th: no task may fall to one rank

    def _interval_tasks(self, number: int, num: int) -> np.ndarray:
        if self._sequence is None or self._sequence[0] != (number, num):
            counts = sample_counts(self.weights, self.interval * num)
            for i in np.flatnonzero(counts == 0):
                logger.warning("task '%s' gets no sample in interval %d", self.tasks[int(i)].name, number)
            self._sequence = ((number, num), spread_tasks(counts, generator(self.seed, "task-interval", number)))
        return self._sequence[1]

    def update(self, feedback: Feedback) -> None:
        self.difficulty.update(feedback)
        self._sequence = None

    def state_dict(self) -> dict[str, Any]:
        return self.difficulty.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.difficulty.load_state_dict(state)
        self._sequence = None

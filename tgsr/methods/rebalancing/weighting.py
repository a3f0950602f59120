"""Loss weightings: the paper's re-weighting and hybrid (eq. 4-9, A.2.2), and the baselines RLW, DWA and GLS (table 4).

Baselines follow their papers with L_i the mean loss of the samples of task i in the batch; tasks absent from a batch
are left out and the weights of the others rescaled. All are scaled so that equal weights give the plain mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tgsr.config.spec import PositiveInt
from tgsr.methods.rebalancing.difficulty import DifficultyWeights
from tgsr.methods.rebalancing.weights import hybrid_split
from tgsr.tasks.samplers import Feedback
from tgsr.tasks.task import TaskSet
from tgsr.tasks.weighting import LOSS_WEIGHTINGS, LossWeighting
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.rng import generator

if TYPE_CHECKING:
    from tgsr.config.schema import Options

_EPS = 1e-8


def task_means(losses: torch.Tensor, task_ids: torch.Tensor, num_tasks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of each task, and which tasks are in the batch.

    Args:
        losses: `(B,)`.
        task_ids: `(B,)` int64.
        num_tasks: T.

    Returns:
        `(T,)` means, 0 for absent tasks, and `(T,)` bool.
    """
    sums = losses.new_zeros(num_tasks).index_add(0, task_ids, losses)
    counts = losses.new_zeros(num_tasks).index_add(0, task_ids, torch.ones_like(losses))
    return sums / counts.clamp(min=1), counts > 0


def weighted_mean(means: torch.Tensor, is_present: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`sum w_i L_i / sum w_i` over the tasks present."""
    kept = torch.where(is_present, weights, torch.zeros_like(weights))
    return (kept * means).sum() / kept.sum().clamp(min=_EPS)


class _FactorWeighting(LossWeighting):
    """Multiplies each sample's loss by a factor of its task, then takes the mean over samples."""

    @property
    def factors(self) -> np.ndarray:
        """(T,) factor of each task."""
        raise NotImplementedError

    def reduce(self, losses: torch.Tensor, task_ids: torch.Tensor, iteration: int) -> torch.Tensor:
        factors = torch.as_tensor(self.factors, dtype=losses.dtype, device=losses.device)
        return (factors[task_ids] * losses).mean()


@LOSS_WEIGHTINGS.register()
class StaticLossWeighting(_FactorWeighting):
    """Fixed weights, for tasks sampled uniformly: a sample of task i counts `n w_i`.

    Args:
        tasks, seed: see `LossWeighting`.
        weights: task name -> relative weight; every task must be named.
    """

    def __init__(self, tasks: TaskSet, *, seed: int, weights: dict[str, float]) -> None:
        super().__init__(tasks, seed=seed)
        unknown = sorted(set(weights) ^ set(tasks.names))
        values = np.array([weights.get(n, math.nan) for n in tasks.names], dtype=np.float64)
        if unknown or not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
            raise ConfigError(
                f"weights {weights} do not fit the tasks {', '.join(tasks.names)}",
                remedy="give each task one number >= 0, not all 0",
            )
        self.task_weights = values / values.sum()

    @property
    def factors(self) -> np.ndarray:
        return self.task_weights * len(self.tasks)


class _DifficultyWeighting(_FactorWeighting):
    needs_metrics = True

    def __init__(
        self, tasks: TaskSet, *, seed: int, references: Path, interval: int, metric: str, temperature: float
    ) -> None:
        super().__init__(tasks, seed=seed)
        self.interval = interval
        self.difficulty = DifficultyWeights(
            tasks, references=references, interval=interval, metric=metric, temperature=temperature
        )

    @property
    def task_weights(self) -> np.ndarray:
        return self.difficulty.values

    def check(self, options: Options) -> None:
        self.difficulty.check(options)

    def update(self, feedback: Feedback) -> None:
        self.difficulty.update(feedback)

    def state_dict(self) -> dict[str, Any]:
        return self.difficulty.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.difficulty.load_state_dict(state)


@LOSS_WEIGHTINGS.register()
class DifficultyLossWeighting(_DifficultyWeighting):
    """Loss re-weighting (eq. 4-9, table 5): tasks sampled uniformly, a sample of task i counts `n w_i`.

    Args:
        tasks, seed: see `LossWeighting`.
        references: `references.json` of a `SingleTaskReferences` stage.
        interval: iterations between updates of the weights.
        metric: name under `val.metrics`, measured on `val.val_tasks`.
        temperature: weights are exp(DP / temperature); 1 dB is the paper's.
    """

    def __init__(
        self,
        tasks: TaskSet,
        *,
        seed: int,
        references: Path,
        interval: PositiveInt = 5000,
        metric: str = "psnr",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(
            tasks, seed=seed, references=references, interval=interval, metric=metric, temperature=temperature
        )

    @property
    def factors(self) -> np.ndarray:
        return self.difficulty.values * len(self.tasks)


@LOSS_WEIGHTINGS.register()
class HybridLossWeighting(_DifficultyWeighting):
    """The loss side of the hybrid (A.2.2); the sampler must be `RebalancingTaskSampler` with `rule: hybrid`.

    Args:
        tasks, seed: see `LossWeighting`.
        references: `references.json` of a `SingleTaskReferences` stage.
        interval: iterations between updates of the weights.
        metric: name under `val.metrics`, measured on `val.val_tasks`.
        temperature: weights are exp(DP / temperature); 1 dB is the paper's.
    """

    def __init__(
        self,
        tasks: TaskSet,
        *,
        seed: int,
        references: Path,
        interval: PositiveInt = 5000,
        metric: str = "psnr",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(
            tasks, seed=seed, references=references, interval=interval, metric=metric, temperature=temperature
        )

    @property
    def factors(self) -> np.ndarray:
        return hybrid_split(self.difficulty.values)[1]

    def check(self, options: Options) -> None:
        super().check(options)
        spec = options.tasks.sampler
        ours = {"interval": self.interval, "temperature": self.difficulty.temperature, "metric": self.difficulty.metric}
        theirs = {"interval": 5000, "temperature": 1.0, "metric": "psnr", **(spec.kwargs if spec is not None else {})}
        if spec is None or spec.type != "RebalancingTaskSampler" or theirs.get("rule") != "hybrid":
            raise ConfigError(
                "HybridLossWeighting is one half of a pair",
                place=f"{options.name}: tasks.sampler",
                remedy="add sampler: {type: RebalancingTaskSampler, rule: hybrid, ...}",
            )
        for key, value in ours.items():
            if theirs[key] != value:
                raise ConfigError(f"the two halves of the hybrid differ: {key} is {theirs[key]} and {value}")


@LOSS_WEIGHTINGS.register(aliases=["RLW"])
class RandomLossWeighting(LossWeighting):
    """RLW (Lin et al. 2021): every iteration weights are the softmax of independent normal numbers.

    Args:
        tasks, seed: see `LossWeighting`.
    """

    def __init__(self, tasks: TaskSet, *, seed: int) -> None:
        super().__init__(tasks, seed=seed)

    def weights_at(self, iteration: int) -> np.ndarray:
        """(T,) weights of an iteration, sum 1; the same on every rank."""
        z = generator(self.seed, "random-loss-weighting", iteration).standard_normal(len(self.tasks))
        raised = np.exp(z - z.max())
        return raised / raised.sum()

    def reduce(self, losses: torch.Tensor, task_ids: torch.Tensor, iteration: int) -> torch.Tensor:
        weights = torch.as_tensor(self.weights_at(iteration), dtype=losses.dtype, device=losses.device)
        return weighted_mean(*task_means(losses, task_ids, len(self.tasks)), weights)


@LOSS_WEIGHTINGS.register(aliases=["DWA"])
class DynamicWeightAverage(LossWeighting):
    """DWA (Liu et al. 2019): more weight for tasks whose loss fell less between the last two intervals.

    `w = softmax(r / T)` with `r_i = L_i(k - 1) / L_i(k - 2)`; equal weights in the first two intervals. The paper's
    epoch is an interval here.

    Args:
        tasks, seed: see `LossWeighting`.
        interval: iterations between updates.
        temperature: T.
    """

    def __init__(
        self, tasks: TaskSet, *, seed: int, interval: PositiveInt = 5000, temperature: float = 2.0
    ) -> None:
        super().__init__(tasks, seed=seed)
        if not temperature > 0:
            raise ConfigError(f"temperature is {temperature}", remedy="give a positive number; 2 is DWA's")
        self.interval, self.temperature = interval, temperature
        self.task_weights = np.full(len(tasks), 1 / len(tasks))
        self._before: list[float] | None = None

    def reduce(self, losses: torch.Tensor, task_ids: torch.Tensor, iteration: int) -> torch.Tensor:
        weights = torch.as_tensor(self.task_weights, dtype=losses.dtype, device=losses.device)
        return weighted_mean(*task_means(losses, task_ids, len(self.tasks)), weights)

    def update(self, feedback: Feedback) -> None:
        missing = [n for n in self.tasks.names if n not in feedback.losses]
        if missing:
            raise DataError(
                f"task '{missing[0]}' had no sample in the interval up to iteration {feedback.iteration}",
                remedy="use a longer interval",
            )
        now = [float(feedback.losses[n]) for n in self.tasks.names]
        if self._before is not None:
            ratio = np.array(now) / np.maximum(self._before, _EPS) / self.temperature
            raised = np.exp(ratio - ratio.max())
            self.task_weights = raised / raised.sum()
        self._before = now

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.task_weights.tolist(), "before": self._before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.task_weights = np.array(state["weights"], dtype=np.float64)
        self._before = None if state["before"] is None else [float(x) for x in state["before"]]


@LOSS_WEIGHTINGS.register(aliases=["GLS"])
class GeometricLossStrategy(LossWeighting):
    """GLS (Chennupati et al. 2019): the geometric mean of the task losses, which must not be negative; in logarithms.

    Args:
        tasks, seed: see `LossWeighting`.
    """

    def __init__(self, tasks: TaskSet, *, seed: int) -> None:
        super().__init__(tasks, seed=seed)

    def reduce(self, losses: torch.Tensor, task_ids: torch.Tensor, iteration: int) -> torch.Tensor:
        means, is_present = task_means(losses, task_ids, len(self.tasks))
        means = torch.where(means < 0, torch.nan, means.clamp(min=_EPS))  # NaN stops the run, without a wait here
        logs = torch.where(is_present, torch.log(means), torch.zeros_like(means))
        return (logs.sum() / is_present.sum()).exp()

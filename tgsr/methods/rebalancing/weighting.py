"""Loss weightings: the paper's re-weighting and hybrid (eq. 4-9, A.2.2), and the baselines RLW, DWA and GLS (table 4).

Baselines follow their papers with L_i the mean loss of the samples of task i in the batch of all ranks and micro
batches; tasks absent from it are left out and the weights of the others rescaled. All are scaled so that equal weights
give the plain mean.
"""

from __future__ import annotations

import logging
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
from tgsr.tasks.weighting import LOSS_WEIGHTINGS, LossWeighting, WholeBatch
from tgsr.utils.device import upload
from tgsr.utils.errors import ConfigError
from tgsr.utils.rng import generator

if TYPE_CHECKING:
    from tgsr.config.schema import Options

logger = logging.getLogger("tgsr")
_EPS = 1e-8


def _sent(numbers: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """`(T,)` numbers of the host, of the type and on the device of `like`, without waiting for it."""
    return upload({"numbers": np.asarray(numbers, dtype=np.float64)}, like.device)["numbers"].to(like.dtype)


class _FactorWeighting(LossWeighting):
    """Multiplies each sample's loss by a factor of its task, then takes the mean over samples."""

    @property
    def factors(self) -> np.ndarray:
        """(T,) factor of each task."""
        raise NotImplementedError

    def reduce(
        self, losses: torch.Tensor, task_ids: torch.Tensor, iteration: int, whole: WholeBatch | None = None
    ) -> torch.Tensor:
        factors = _sent(self.factors, losses)
        return (factors[task_ids] * losses).mean()


class _TaskMeanWeighting(LossWeighting):
    """Minimises a function of the tasks' mean losses L_i over the whole batch.

    With N samples in it, N_i of task i, each sample's loss gets the factor `N / N_i dF/dL_i`: the mean over samples,
    micro batches and ranks then has F's gradient, however the samples are spread over them.
    """

    def reduce(
        self, losses: torch.Tensor, task_ids: torch.Tensor, iteration: int, whole: WholeBatch | None = None
    ) -> torch.Tensor:
        whole = WholeBatch(task_ids, len(self.tasks)) if whole is None else whole
        counts = whole.counts.to(losses.dtype)
        slopes = self._slopes(losses, task_ids, counts, iteration, whole)
        factors = counts.sum() * slopes / counts.clamp(min=1)
        return (factors[task_ids] * losses).mean()

    def _slopes(
        self, losses: torch.Tensor, task_ids: torch.Tensor, counts: torch.Tensor, iteration: int, whole: WholeBatch
    ) -> torch.Tensor:
        """`(T,)` dF/dL_i, 0 for tasks without samples (`counts` 0); by default the weights over their sum."""
        weights = _sent(self.weights_at(iteration), losses)
        kept = torch.where(counts > 0, weights, 0.0)
        return kept / kept.sum().clamp(min=_EPS)

    def weights_at(self, iteration: int) -> np.ndarray:
        """(T,) weights of an iteration."""
        raise NotImplementedError


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
class RandomLossWeighting(_TaskMeanWeighting):
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


@LOSS_WEIGHTINGS.register(aliases=["DWA"])
class DynamicWeightAverage(_TaskMeanWeighting):
    """DWA (Liu et al. 2019): more weight for tasks whose loss fell less between the last two intervals.

    `w = softmax(r / T)` with `r_i = L_i(k - 1) / L_i(k - 2)`; equal weights in the first two intervals. The paper's
    epoch is an interval here.

    Args:
        tasks, seed: see `LossWeighting`.
        interval: iterations between updates.
        temperature: T.
    """

    def __init__(self, tasks: TaskSet, *, seed: int, interval: PositiveInt = 5000, temperature: float = 2.0) -> None:
        super().__init__(tasks, seed=seed)
        if not temperature > 0:
            raise ConfigError(f"temperature is {temperature}", remedy="give a positive number; 2 is DWA's")
        self.interval, self.temperature = interval, temperature
        self.task_weights = np.full(len(tasks), 1 / len(tasks))
        self._before: list[float] | None = None

    def weights_at(self, iteration: int) -> np.ndarray:
        return self.task_weights

    def update(self, feedback: Feedback) -> None:
        missing = [n for n in self.tasks.names if n not in feedback.losses]
        if missing:
            text = "task '%s' had no sample in the interval up to iteration %d: DWA keeps its weights"
            logger.warning(text, missing[0], feedback.iteration)
            return
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
class GeometricLossStrategy(_TaskMeanWeighting):
    """GLS (Chennupati et al. 2019): the geometric mean of the task losses, which must not be negative; in logarithms.

    Args:
        tasks, seed: see `LossWeighting`.
    """

    def __init__(self, tasks: TaskSet, *, seed: int) -> None:
        super().__init__(tasks, seed=seed)

    def check(self, options: Options) -> None:
        if options.train is not None and options.train.accumulation_steps > 1:
            raise ConfigError(
                "GLS weighs every sample by the losses of the whole batch, which micro batches do not know in time",
                place=f"{options.name}: train.accumulation_steps",
                remedy="set it to 1 with more images a GPU or more ranks, or use another weighting",
            )

    def _slopes(
        self, losses: torch.Tensor, task_ids: torch.Tensor, counts: torch.Tensor, iteration: int, whole: WholeBatch
    ) -> torch.Tensor:
        sums = whole.over_ranks(losses.new_zeros(len(self.tasks)).index_add(0, task_ids, losses))
        means = sums / counts.clamp(min=1)
        means = torch.where(means < 0, torch.nan, means.clamp(min=_EPS))  # NaN stops the run, without a wait here
        is_present = counts > 0
        mean_log = torch.where(is_present, torch.log(means), 0.0).sum() / is_present.sum()
        return torch.where(is_present, mean_log.exp() / (is_present.sum() * means), 0.0)

"""Conclusion 2 measured: scatter of single-sample gradients under re-weighting, re-sampling and the hybrid (A.2.2).

A scheme draws task j with probability p_j and multiplies its loss by w_j / p_j. All estimate the same gradient
`G = sum w_j mu_j`; the second moment of one sample is `sum w_j^2 / p_j E_j` with `E_j = E|g_j|^2`, summed over all
coordinates of the gradient. So predicted variances need the E_j alone; measured ones come from other samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt, Range
from tgsr.data.batch import Batch
from tgsr.engine import build
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.losses.base import LossContext
from tgsr.methods.rebalancing.stages import read_weights
from tgsr.methods.rebalancing.weights import hybrid_split
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.journal import Journal, Record
from tgsr.study.pool import run_all
from tgsr.study.stage import Stage
from tgsr.tasks.samplers import UniformTaskSampler
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError, DataError, Stopped
from tgsr.utils.files import file_digest, write_atomic

Samples = Annotated[int, Range(2)]
"""At least two: their spread is told, too."""
SCHEMES = ("re-weighting", "re-sampling", "hybrid")


def scheme_probabilities(weights: np.ndarray, scheme: str) -> np.ndarray:
    """(n,) p of a scheme of `SCHEMES`."""
    if scheme == "re-weighting":
        return np.full(len(weights), 1 / len(weights))
    return weights if scheme == "re-sampling" else hybrid_split(weights)[0]


def second_moment(weights: np.ndarray, probabilities: np.ndarray, energies: np.ndarray) -> float:
    """`sum w_j^2 / p_j E_j`: of one sample; tasks with weight 0 add nothing."""
    w, p, e = (np.asarray(x, dtype=np.float64) for x in (weights, probabilities, energies))
    used = w > 0
    return float((w[used] ** 2 / p[used] * e[used]).sum())


def conclusion_two(weights: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """(n,) `w_j (n w_j - 1) E_j`; their sum is the variance of re-weighting minus that of re-sampling."""
    w = np.asarray(weights, dtype=np.float64)
    return w * (len(w) * w - 1) * np.asarray(energies, dtype=np.float64)


def paper_hybrid_difference(weights: np.ndarray, energies: np.ndarray) -> float:
    """What the paper states for re-weighting minus hybrid: the sum of `conclusion_two` over tasks above 1/n.

    It keeps probability 1/n for each low task, so its probabilities sum to more than 1; `hybrid_split` says how ours
    differ. The exact value for a proper distribution is lower by `sum_L w_j^2 (|L| / W_L - n) E_j`.
    """
    terms = conclusion_two(weights, energies)
    return float(terms[np.asarray(weights) > 1 / len(terms)].sum())


@dataclass(frozen=True, kw_only=True)
class VarianceFile(Artefact):
    """A `variance.json`: the result of `summarise`, and from how many samples."""

    schema: ClassVar[str] = "tgsr.gradient_variance"
    made_by: ClassVar[str] = "GradientVariance"

    num_moments: int
    num_samples: int
    tasks: Mapping[str, Mapping[str, float]]
    schemes: Mapping[str, Mapping[str, Any]]
    differences: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Moments:
    """Sums over single-sample gradients.

    Attributes:
        mean: `(P,)` float64 mean gradient.
        energy: mean squared norm.
        energy_error: its standard error.
    """

    mean: torch.Tensor
    energy: float
    energy_error: float


class SampleGradients:
    """Gradients of single samples of a run's network, loss and data under fixed weights.

    Args:
        options: of a training run.
        context: a world of one.
        tasks: of the run.
    """

    def __init__(self, options: Options, context: Context, tasks: TaskSet) -> None:
        assert options.train is not None
        data = options.datasets.train
        assert data is not None
        single = replace(data, batch_size_per_gpu=1, batch_size=None)
        self.options = replace(
            options,
            datasets=replace(options.datasets, train=single),
            train=replace(options.train, accumulation_steps=1),
        )
        self.context, self.tasks = context, tasks
        self.net = build.build_network(options).to(context.device).train()
        self.losses = {name: spec.build().to(context.device) for name, spec in options.train.losses.items()}
        self.parameters = [p for p in self.net.parameters() if p.requires_grad]

    def draw(self, probabilities: Mapping[str, float], num: int, *, seed: int) -> Any:
        """`num` pairs of task index and gradient `(P,)`, tasks drawn independently."""
        sampler = UniformTaskSampler(self.tasks, seed=seed, weights=dict(probabilities))
        data = build.TrainData(replace(self.options, manual_seed=seed), self.context, self.tasks, sampler)
        try:
            for batches in data.iterations(0, num):
                assert batches[0].task_ids is not None
                yield int(batches[0].task_ids[0]), self._gradient(batches[0])
        finally:
            data.close()

    def _gradient(self, batch: Batch) -> torch.Tensor:
        output = self.net(batch.lq)
        outputs = {"sr": output} if isinstance(output, torch.Tensor) else dict(output)
        targets = {"gt": batch.gt, "gt_usm": batch.gt_usm}
        context = LossContext(
            outputs=outputs,
            targets={k: v for k, v in targets.items() if v is not None},
            lq=batch.lq,  # type: ignore[arg-type]
            task_ids=batch.task_ids,  # type: ignore[arg-type]
            discriminator=None,
            iteration=0,
        )
        total = torch.stack([loss(context).float() for loss in self.losses.values()]).sum()
        grads = torch.autograd.grad(total, self.parameters, allow_unused=True)
        return torch.cat(
            [torch.zeros_like(p).flatten() if g is None else g.flatten()
             for p, g in zip(self.parameters, grads, strict=True)]
        )  # fmt: skip

    def moments(self, task: str, num: int, *, seed: int) -> Moments:
        """Mean gradient and energy of one task."""
        total, norms = None, []
        for _, gradient in self.draw({task: 1.0}, num, seed=seed):
            double = gradient.double()
            total = double if total is None else total + double
            norms.append(float(double @ double))
        assert total is not None
        return Moments(total / num, float(np.mean(norms)), float(np.std(norms, ddof=1) / np.sqrt(num)))

    def scatter(
        self, weights: np.ndarray, scheme: str, centre: torch.Tensor, num: int, *, seed: int
    ) -> tuple[float, float]:
        """Mean squared distance of a scheme's estimates from `centre`, and its standard error."""
        p = scheme_probabilities(weights, scheme)
        named = dict(zip(self.tasks.names, p.tolist(), strict=True))
        squares = []
        for j, gradient in self.draw(named, num, seed=seed):
            away = gradient.double() * (weights[j] / p[j]) - centre
            squares.append(float(away @ away))
        return float(np.mean(squares)), float(np.std(squares, ddof=1) / np.sqrt(num))


@dataclass(frozen=True)
class _Gradients:
    """The moments of each task and the scatter of each scheme (see `pool.Work`); keys `moments/TASK`, `scatter/SCHEME`.

    Attributes:
        options: of the stage.
        folder: where mean gradients are kept.
        weights: of the tasks, in their order.
        num_moments, num_samples: see `GradientVariance`.
    """

    options: Options
    folder: Path
    weights: tuple[float, ...]
    num_moments: int
    num_samples: int

    def open(self, context: Context) -> Callable[[str], Record]:
        tasks, seed = build.build_tasks(self.options), self.options.manual_seed
        gradients = SampleGradients(self.options, context, tasks)

        def run(key: str) -> Record:
            kind, name = key.split("/", 1)
            if kind == "moments":
                j = tasks.index(name)
                found = gradients.moments(name, self.num_moments, seed=seed + 1000 + j)
                write_atomic(self.folder / f"mean_{j}.pt", lambda file: torch.save(found.mean, file))
                return {"energy": found.energy, "energy_error": found.energy_error}
            centre = self.centre(len(tasks))
            k, weights = SCHEMES.index(name), np.array(self.weights)
            mean, error = gradients.scatter(weights, name, centre, self.num_samples, seed=seed + 2000 + k)
            return {"measured": mean, "measured_error": error}

        return run

    def mean(self, number: int) -> torch.Tensor:
        """Mean gradient of a task."""
        return torch.load(self.folder / f"mean_{number}.pt", weights_only=True)

    def centre(self, num_tasks: int) -> torch.Tensor:
        """The gradient that all schemes estimate."""
        return torch.stack([w * self.mean(j) for j, w in zip(range(num_tasks), self.weights, strict=True)]).sum(0)


@RUNNERS.register()
class GradientVariance(Stage):
    """Measures conclusion 2 on the network of `path.pretrain_network_g` -> `variance.json`.

    Predictions come from `num_moments` samples of each task (E_j and mean gradients), measured variances from
    `num_samples` other samples of each scheme. Ranks share tasks and schemes.

    Args:
        weights: task -> weight. None: of the last record of `weights_file`.
        weights_file: a `weights.jsonl`.
        num_moments: samples for each task.
        num_samples: samples for each scheme.
        processes: per rank; None: one per core on a CPU, one on a GPU.
    """

    product = "variance.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"num_moments": 2, "num_samples": 2, "processes": 1}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        weights: dict[str, float] | None = None,
        weights_file: Path | None = None,
        num_moments: Samples = 1000,
        num_samples: Samples = 1000,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        if (weights is None) == (weights_file is None):
            raise ConfigError("exactly one of weights and weights_file is needed", place=f"{options.name}: run")
        self.weights, self.weights_file = weights, weights_file
        self.num_moments, self.num_samples, self.processes = num_moments, num_samples, processes

    def units(self) -> tuple[float, str]:
        return self.num_moments + self.num_samples, "samples"

    def work(self) -> None:
        tasks = build.build_tasks(self.options)
        weights = self._weights(tasks)
        work = _Gradients(self.options, self.folder, tuple(weights.tolist()), self.num_moments, self.num_samples)
        start = self.options.path.pretrain_network_g
        about = {
            "options": options_hash(self.options), "weights": weights.tolist(),
            "network": None if start is None else file_digest(start),
        }  # fmt: skip
        journal = Journal(self.folder / "gradients.jsonl", schema="tgsr.gradients", protocol=about)
        for keys in ([f"moments/{n}" for n in tasks.names], [f"scatter/{s}" for s in SCHEMES]):
            if not run_all(work, keys, journal, self.context, processes=self.processes, label=self.options.name):
                raise Stopped
        if self.context.is_main:
            done = journal.read()
            moments = [
                Moments(work.mean(j), *(done[f"moments/{n}"][k] for k in ("energy", "energy_error")))
                for j, n in enumerate(tasks.names)
            ]
            measured = {s: (done[f"scatter/{s}"]["measured"], done[f"scatter/{s}"]["measured_error"]) for s in SCHEMES}
            content = summarise(tasks.names, weights, moments, work.centre(len(tasks)), measured)
            VarianceFile(
                num_moments=self.num_moments, num_samples=self.num_samples, **content, **stamp(self.options)
            ).save(self.folder / self.product)  # fmt: skip

    def _weights(self, tasks: TaskSet) -> np.ndarray:
        named = self.weights
        if named is None:
            assert self.weights_file is not None
            records = read_weights(self.weights_file)
            if not records:
                raise DataError("there are no weights in it", place=str(self.weights_file))
            named = records[-1].get("loss") or records[-1]["sampling"]
        if set(named) != set(tasks.names):
            raise DataError(f"weights of {', '.join(named)} do not fit the tasks {', '.join(tasks.names)}")
        values = np.array([named[n] for n in tasks.names], dtype=np.float64)
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise DataError(f"weights must be positive numbers, not {values.tolist()}")
        return values / values.sum()


def summarise(
    names: Sequence[str],
    weights: np.ndarray,
    moments: Sequence[Moments],
    centre: torch.Tensor,
    measured: Mapping[str, tuple[float, float]],
) -> dict[str, Any]:
    """Predicted and measured variances and differences as the content of `variance.json`."""
    energies = np.array([m.energy for m in moments])
    errors = np.array([m.energy_error for m in moments])
    bias = float(centre @ centre)
    schemes, factors = {}, {}
    for scheme in SCHEMES:
        p = scheme_probabilities(weights, scheme)
        factors[scheme] = weights**2 / p
        schemes[scheme] = {
            "probabilities": dict(zip(names, p.tolist(), strict=True)),
            "predicted": second_moment(weights, p, energies) - bias,
            "measured": measured[scheme][0],
            "measured_error": measured[scheme][1],
        }
    differences = {}
    for scheme in SCHEMES[1:]:
        slopes = factors[SCHEMES[0]] - factors[scheme]
        differences[scheme] = {
            "predicted": float(slopes @ energies),
            "predicted_error": float(np.sqrt((slopes**2) @ errors**2)),
            "measured": measured[SCHEMES[0]][0] - measured[scheme][0],
            "measured_error": float(np.hypot(measured[SCHEMES[0]][1], measured[scheme][1])),
        }
    differences["hybrid"]["paper"] = paper_hybrid_difference(weights, energies)
    return {
        "tasks": {
            n: {"weight": w, "energy": e, "energy_error": d, "term": t}
            for n, w, e, d, t in zip(
                names, weights.tolist(), energies.tolist(), errors.tolist(),
                conclusion_two(weights, energies).tolist(), strict=True,
            )
        },
        "schemes": schemes,
        "differences": differences,
    }  # fmt: skip

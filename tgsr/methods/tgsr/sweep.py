"""The indicator sweep: z of every task, by short fine-tuning of the pre-trained network on each (equations 3 and 4)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from tgsr.config.schema import Options
from tgsr.config.spec import NonNegativeInt, PositiveInt, Range
from tgsr.data.batch import Batch
from tgsr.engine.build import global_batch, micro_batches
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.methods.tgsr.artefacts import INDICATORS, result_hash, weights_stamp
from tgsr.methods.tgsr.evaluation import check_start
from tgsr.methods.tgsr.fine_tuning import FineTuner
from tgsr.methods.tgsr.indicator import (
    Denominator,
    Indicator,
    Mode,
    paired_indicator,
    paper_indicator,
    reliability,
    stable_iteration,
)
from tgsr.methods.tgsr.patches import TaskPatches, rows_of, schedule
from tgsr.study.journal import Journal, Record
from tgsr.study.pool import run_all
from tgsr.study.stage import Stage
from tgsr.tasks.artefacts import load_tasks
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError, Stopped

logger = logging.getLogger("tgsr")
_OWN = 10_000_000
"""Sample numbers of a task's own patches start at (task + 1) times this; the common ones and the probe lie below."""
_PROBE = 5_000_000
_FRESH = 8_000_000


@dataclass(frozen=True)
class IndicatorSettings:
    """How z is measured; see `IndicatorSweep`."""

    mode: Mode
    batch_size: int
    probe_iters: tuple[int, ...]
    num_patches: int
    num_probe: int
    window: int
    denominator: Denominator
    num_fresh: int
    patches: Literal["common", "own"]
    study: bool

    @property
    def estimator(self) -> str:
        """Which estimate is z."""
        return "probe" if self.mode == "paired" else self.denominator

    def wants(self, estimator: str) -> bool:
        return self.study or estimator == self.estimator


@dataclass(frozen=True)
class IndicatorWork:
    """Work on one task (see `study.pool`): fine-tune on it for `iters` iterations, estimate z at each probed iteration.

    Attributes:
        options: of the run.
        tasks: all tasks.
        settings: how z is measured.
        iters: iterations, one of `settings.probe_iters`.
    """

    options: Options
    tasks: TaskSet
    settings: IndicatorSettings
    iters: int

    def open(self, context: Context) -> Callable[[str], Record]:
        patches = TaskPatches(self.options, context.device, self.tasks)
        tuner = FineTuner(self.options, context, self.tasks)
        return lambda name: self._measure(self.tasks.index(name), patches, tuner)

    def _measure(self, index: int, patches: TaskPatches, tuner: FineTuner) -> Record:
        start = time.perf_counter()
        s = self.settings
        plan = schedule(s.num_patches, s.batch_size, self.iters)
        first = 0 if s.patches == "common" else (index + 1) * _OWN
        keep = s.patches == "common"
        used = min(s.num_patches, self.iters * s.batch_size)
        train = patches.of(index, range(first, first + used), keep=keep)
        probe = patches.of(index, range(_PROBE, _PROBE + s.num_probe), keep=True) if s.wants("probe") else None
        tuner.reset()
        before = self._before(index, patches, tuner, train, plan, probe)

        estimates: dict[str, Indicator] = {}
        losses: list[float] = []
        is_finite = True
        done = 0
        for stop in (i for i in s.probe_iters if i <= self.iters):
            trace = tuner.train((self._micro(train, *batch) for batch in plan[done:stop]), first=done)
            losses += trace.losses.tolist()
            is_finite &= trace.is_finite
            done = stop
            if probe is not None:
                estimates[f"probe@{stop}"] = paired_indicator(tuner.loss(probe).numpy(), before["probe"])
            estimates.update(self._from_training(np.array(losses), before, stop))
        has_diverged = not (is_finite and all(math.isfinite(e.z) for e in estimates.values()))
        task = self.tasks[index]
        return {
            "task": task.name,
            "id": task.id,
            "status": "diverged" if has_diverged else "ok",
            "estimates": {k: [_finite(e.z), _finite(e.se)] for k, e in estimates.items()},
            "seconds": round(time.perf_counter() - start, 3),
        }

    def _micro(self, train: Batch, rows: list[int], turn: int) -> list[Batch]:
        """The micro batches of an iteration."""
        size = micro_batches(self.options, 1)[0]
        return [rows_of(train, rows[i : i + size], turn) for i in range(0, len(rows), size)]

    def _before(
        self,
        index: int,
        patches: TaskPatches,
        tuner: FineTuner,
        train: Batch,
        plan: list[tuple[list[int], int]],
        probe: Batch | None,
    ) -> dict[str, np.ndarray]:
        """Losses under theta that the estimators need; keys `probe`, `fresh`, `same@<iteration>`."""
        s = self.settings
        found: dict[str, np.ndarray] = {}
        if probe is not None:
            found["probe"] = tuner.loss(probe).numpy()
        if s.wants("fresh"):
            first = (index + 1) * _OWN + _FRESH
            fresh = patches.of(index, range(first, first + s.num_fresh * s.batch_size), keep=False)
            found["fresh"] = tuner.loss(fresh).numpy().reshape(s.num_fresh, s.batch_size).mean(1)
        if s.wants("same"):
            for stop in (i for i in s.probe_iters if i <= self.iters):
                last = plan[max(0, stop - s.window) : stop]
                means = [tuner.loss(rows_of(train, rows, turn)).mean().item() for rows, turn in last]
                found[f"same@{stop}"] = np.array(means)
        return found

    def _from_training(self, losses: np.ndarray, before: dict[str, np.ndarray], stop: int) -> dict[str, Indicator]:
        """The estimates of `paper` mode after `stop` iterations."""
        window = min(self.settings.window, stop)
        found = {}
        for kind in ("first", "fresh", "same"):
            if self.settings.wants(kind):
                under = {"first": losses[:1], "fresh": before.get("fresh"), "same": before.get(f"same@{stop}")}[kind]
                found[f"{kind}@{stop}"] = paper_indicator(losses, under, window=window, denominator=kind)  # type: ignore[arg-type]
        return found


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@RUNNERS.register()
class IndicatorSweep(Stage):
    """Measures the performance indicator z of every task -> `indicators.jsonl`.

    `train` of the option file gives losses, optimiser and, as `total_iter`, the iterations on each task (100 in the
    paper); `path.pretrain_network_g` the network; `datasets.train` the images and the batch.

    Args:
        tasks: `tasks.json`.
        mode: `paired`: loss of a fixed probe after over before, all tasks on the same HR patches with the same noise;
            a standard error for each task, and iterations end where the ranking is stable. `paper`: the text's ratio.
        probe_iters: iterations after which z is estimated; the last must be `train.total_iter`. None: halves of it down
            to 5 (paired), or the last alone (paper).
        num_patches: training patches of a task, used again turned otherwise when they do not suffice. None: 64, or a
            batch if larger (paired); new ones in every iteration (paper).
        num_probe: patches of the probe (paired).
        pilot: tasks that run to the last probed iteration; from them follows where the others stop (paired).
        agreement: rank correlation with all later probes that counts as stable. 1: no early stop.
        window: last iterations that are averaged (paper).
        denominator: where L(tau, theta) is measured (paper): `fresh` on `num_fresh` batches of their own, `first` = the
            loss of the first training batch, `same` = on the batches of the numerator.
        num_fresh: batches of `fresh`.
        patches: `common` to all tasks, or each task's `own`. None: common (paired), own (paper).
        study: also record the estimates of all other modes, and stop nothing early.
        processes: per rank; None: one per core on a CPU, one on a GPU.
    """

    product = "indicators.jsonl"
    SMALLEST: ClassVar[Mapping[str, Any]] = {
        "probe_iters": None, "num_probe": 4, "num_patches": None, "pilot": 0, "window": 2, "num_fresh": 2,
    }  # fmt: skip

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        tasks: Path,
        mode: Mode = "paired",
        probe_iters: list[int] | None = None,
        num_patches: PositiveInt | None = None,
        num_probe: PositiveInt = 32,
        pilot: NonNegativeInt = 40,
        agreement: Annotated[float, Range(0, 1)] = 0.95,
        window: PositiveInt = 10,
        denominator: Denominator = "fresh",
        num_fresh: PositiveInt = 10,
        patches: Literal["common", "own"] | None = None,
        study: bool = False,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        if options.train is None or options.datasets.train is None:
            raise ConfigError("the sweep needs the sections train and datasets.train", place=options.name)
        check_start(options)
        iters, batch_size = options.train.total_iter, global_batch(options)
        is_paired = mode == "paired"
        probes = probe_iters or (_halves(iters) if is_paired or study else [iters])
        if sorted(set(probes)) != list(probes) or probes[-1] != iters or probes[0] < 1:
            problem = f"probe_iters {probes} must ascend to train.total_iter = {iters}"
            raise ConfigError(problem, place=f"{options.name}: run.probe_iters")
        if window > iters and not is_paired:
            problem = f"window is {window} but train.total_iter is {iters}"
            raise ConfigError(problem, place=f"{options.name}: run.window")
        self.path, self.pilot, self.agreement, self.processes = tasks, pilot, agreement, processes
        self.settings = IndicatorSettings(
            mode=mode,
            batch_size=batch_size,
            probe_iters=tuple(probes),
            num_patches=num_patches or (max(64, batch_size) if is_paired else iters * batch_size),
            num_probe=num_probe,
            window=window,
            denominator=denominator,
            num_fresh=num_fresh,
            patches=patches or ("common" if is_paired else "own"),
            study=study,
        )

    def units(self) -> tuple[float, str]:
        return task_iterations(self.path, self.settings.probe_iters[-1])

    def work(self) -> None:
        space = self.options.degradation.space.build() if self.options.degradation is not None else None
        tasks = load_tasks(self.path, space=space)
        journal = self._journal(tasks)
        work = IndicatorWork(self.options, tasks, self.settings, self.settings.probe_iters[-1])
        iters = self._pilot(work, tasks, journal)
        records = self._sweep(replace(work, iters=iters), tasks.names, journal)
        self.context.barrier()  # every rank has read the parts that the main one removes
        if self.context.is_main:
            self._finish(tasks, journal, records, iters)

    def _journal(self, tasks: TaskSet) -> Journal:
        return Journal(
            self.folder / self.product,
            schema=INDICATORS,
            protocol={
                **asdict(self.settings),
                "agreement": self.agreement,
                "pilot": self.pilot,
                "pretrained": weights_stamp(check_start(self.options)),
                "option_file": result_hash(self.options),
            },
            seed=self.options.manual_seed,
            tasks=tasks.digest,
        )

    def _sweep(self, work: IndicatorWork, names: list[str], journal: Journal) -> dict[str, Record]:
        if not run_all(work, names, journal, self.context, processes=self.processes, label=self.options.name):
            raise Stopped
        return journal.shared(self.context)

    def _pilot(self, work: IndicatorWork, tasks: TaskSet, journal: Journal) -> int:
        """Iterations for all tasks, from the pilot tasks where there is an early stop."""
        s = self.settings
        if s.mode == "paper" or s.study or self.agreement >= 1 or self.pilot < 3 or len(s.probe_iters) < 2:
            return work.iters
        names = tasks.names[: self.pilot]
        done = self._sweep(work, names, journal)
        curves = np.array([[_estimate(done[n], f"probe@{i}")[0] for i in s.probe_iters] for n in names])
        iters = stable_iteration(curves, list(s.probe_iters), agreement=self.agreement)
        if self.context.is_main:
            text = "%s: the ranking of %d pilot tasks is stable after %d iterations"
            logger.info(text, self.options.name, len(names), iters)
        return iters

    def _finish(self, tasks: TaskSet, journal: Journal, records: Mapping[str, Record], iters: int) -> None:
        key = f"{self.settings.estimator}@{iters}"

        def finish(record: Record) -> Record:
            z, se = _estimate(record, key)
            is_ok = record["status"] == "ok"
            return {**record, "z": _finite(z) if is_ok else None, "se": _finite(se) if is_ok else None}

        done = [finish(records[name]) for name in tasks.names]
        z, se = (np.array([np.nan if r[k] is None else r[k] for r in done]) for k in ("z", "se"))
        diverged = [r["task"] for r in done if r["status"] != "ok"]
        result: dict[str, Any] = {
            "iters": iters,
            "reliability": _finite(reliability(z, se)),
            "diverged": diverged,
            "seconds": round(sum(r["seconds"] for r in done), 1),
        }
        path = journal.merge(tasks.names, finish=finish, result=result)
        if diverged:
            logger.warning("the network diverged on %d tasks, first '%s'; they have no z", len(diverged), diverged[0])
        logger.info(
            "%s: %d tasks, median z %.4f, reliability %.2f",
            path, len(tasks), np.nanmedian(z) if np.isfinite(z).any() else np.nan, reliability(z, se),
        )  # fmt: skip


def _estimate(record: Record, key: str) -> tuple[float, float]:
    z, se = record.get("estimates", {}).get(key, (None, None))
    is_ok = record["status"] == "ok"
    return (math.nan if z is None or not is_ok else z), (math.nan if se is None else se)


def task_iterations(path: Path, iters: int, most: int | None = None) -> tuple[float, str]:
    """The budget of a sweep: of one task where the file of the tasks is not made yet."""
    if not path.exists():
        return iters, "iterations a task"
    num = len(load_tasks(path))
    return min(num, most or num) * iters, "iterations over all tasks"


def _halves(iters: int) -> list[int]:
    """`iters`, its half, its quarter, ... down to 5, ascending."""
    found = [iters]
    while found[-1] // 2 >= 5:
        found.append(found[-1] // 2)
    return found[::-1]

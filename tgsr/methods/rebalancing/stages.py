"""Stages of Controlled Data Rebalancing: the training, and what it needs around it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import NonNegativeInt, OutputPath, PositiveInt, Range
from tgsr.data.batch import Batch
from tgsr.data.benchmark import build_benchmark
from tgsr.engine import build
from tgsr.engine.context import Context
from tgsr.engine.hooks import Hook
from tgsr.engine.runner import RUNNERS
from tgsr.engine.stages import Train
from tgsr.engine.trainer import Trainer
from tgsr.methods.rebalancing.references import References
from tgsr.models.base import StepResult
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.data_stages import needed_space
from tgsr.study.stage import Stage
from tgsr.tasks.artefacts import STATIC_GROUPS
from tgsr.utils.files import append_jsonl, check_schema, read_jsonl, to_json, write_atomic

logger = logging.getLogger("tgsr")
WEIGHTS = "weights.jsonl"


class WeightsHook(Hook):
    """Writes what samplers and weightings decided after every interval -> `weights.jsonl`.

    The first line says whose weights these are. Each further line has `iteration` (finished iterations), `sampling`
    (probability of each task from now on), `loss` (task weights of the loss weighting, where it has any), and, where
    they come from references, `distance`, `single`, `multi` (dB) and `counts` (samples of the interval that ended).
    """

    def before_train(self, trainer: Trainer) -> None:
        if not trainer.context.is_main:
            return
        self.path = trainer.experiment.path / WEIGHTS
        header = {
            "schema": "tgsr.task_weights",
            "version": 1,
            "seed": trainer.options.manual_seed,
            "options": options_hash(trainer.options),
            "tasks": [{"name": t.name, "id": t.id} for t in trainer.tasks],
        }
        kept = [r for r in read_weights(self.path) if r["iteration"] <= trainer.iteration]
        if not kept:
            kept = [_decided(trainer)]
        write_atomic(self.path, lambda f: f.write("".join(to_json(x) + "\n" for x in [header, *kept]).encode()))

    def after_step(self, trainer: Trainer, result: StepResult, batches: Sequence[Batch]) -> None:
        parts = (trainer.sampler, trainer.weighting)
        is_due = any(p.interval is not None and trainer.iteration % p.interval == 0 for p in parts)
        if is_due and trainer.context.is_main:
            append_jsonl(self.path, _decided(trainer))


def _decided(trainer: Trainer) -> dict[str, Any]:
    names = trainer.tasks.names
    record: dict[str, Any] = {
        "iteration": trainer.iteration,
        "sampling": dict(zip(names, trainer.sampler.weights.tolist(), strict=True)),
    }
    loss = getattr(trainer.weighting, "task_weights", None)
    if loss is not None:
        record["loss"] = dict(zip(names, loss.tolist(), strict=True))
    for part in (trainer.weighting, trainer.sampler):
        record.update(getattr(getattr(part, "difficulty", None), "last", {}))
    return record


def read_weights(path: Path | str) -> list[dict[str, Any]]:
    """The records of a `weights.jsonl` without its first line; empty when it is absent."""
    records = list(read_jsonl(path))
    if records:
        check_schema(records[0], "tgsr.task_weights", path, made_by="Rebalance")
    return records[1:]


@RUNNERS.register()
class Rebalance(Train):
    """Training with any task sampler and loss weighting that also writes `weights.jsonl`.

    Args:
        measure: measure the final weights on the sets under `datasets.val`, as plain training does.
    """

    def __init__(self, *, options: Options, context: Context, measure: bool = True) -> None:
        super().__init__(options=options, context=context)
        self.measure = measure

    def hooks(self) -> list[Hook]:
        return [WeightsHook()]


@dataclass(frozen=True, kw_only=True)
class StaticGroupsFile(Artefact):
    """The `groups.json` of `StaticGroups`.

    Attributes:
        ids: task -> task id.
        gains: task -> what its own network gained, in the unit of the metric.
        groups: names of tasks.
    """

    schema: ClassVar[str] = STATIC_GROUPS
    made_by: ClassVar[str] = "StaticGroups"

    ids: Mapping[str, str]
    gains: Mapping[str, float]
    groups: Sequence[Sequence[str]]


@RUNNERS.register()
class StaticGroups(Stage):
    """Groups in the manner of TGSR that stay as they are, from single-task references -> `groups.json`.

    TGSR's score of a task is what fine-tuning on it gains; the tasks that gain most form the second group, and the
    first holds all tasks. `GroupedTaskSampler` then draws a group uniformly and a task of it uniformly.

    Args:
        references: `references.json`.
        metric: whose gain.
        share: part of the tasks in the second group (0.4 in TGSR), at least one task.
    """

    product = "groups.json"

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        references: Path,
        metric: str = "psnr",
        share: Annotated[float, Range(0, 1)] = 0.4,
    ) -> None:
        super().__init__(options=options, context=context)
        self.references, self.metric, self.share = references, metric, share

    def work(self) -> None:
        references = References.load(self.references)
        gains = references.gains(self.metric)
        ordered = sorted(gains, key=lambda n: (-gains[n], n))
        chosen = ordered[: max(1, round(self.share * len(ordered)))]
        if self.context.is_main:
            StaticGroupsFile(
                ids=references.ids, gains=gains, groups=[list(references.ids), chosen], **stamp(self.options)
            ).save(self.folder / self.product)
            names = ", ".join(f"{n} {gains[n]:+.2f} dB" for n in ordered)
            logger.info("%s: %s", self.folder / self.product, names)


@RUNNERS.register()
class TaskBenchmark(Stage):
    """Degrades a folder of images by the tasks of the option file into one folder; see `BuildBenchmarks` for a folder a
    task, which `PaperTable` reads.

    Args:
        gt: folder of ground-truth images.
        output: gets `LQ/<task>/` (with `all`), `LQ/` otherwise, and what identifies the benchmark. None: the stage's
            own folder.
        seed: of the draws.
        pairing: `all`: every image by every task; `cycle`: image i by task i mod T; `one`: by the only task
            (DIV2K-random: the whole space).
        max_images: use the first so many images only.
        num_workers: processes.
    """

    SMALLEST: ClassVar[Mapping[str, Any]] = {"max_images": 2, "num_workers": 1}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        gt: Path,
        output: OutputPath | None = None,
        seed: NonNegativeInt = 0,
        pairing: Literal["one", "cycle", "all"] = "all",
        max_images: PositiveInt | None = None,
        num_workers: PositiveInt = 1,
    ) -> None:
        super().__init__(options=options, context=context)
        needed_space(options, "a benchmark needs tasks")
        self.gt, self.output, self.seed, self.pairing = gt, output or self.folder, seed, pairing
        self.max_images, self.num_workers = max_images, num_workers

    def work(self) -> None:
        if self.context.is_main:
            folder = build_benchmark(
                self.gt, build.build_tasks(self.options), self.output, seed=self.seed, pairing=self.pairing,
                max_images=self.max_images, num_workers=self.num_workers,
            )  # fmt: skip
            logger.info("%s is complete", folder)

"""Stages of GRIDS: measure the similarity matrix (4.2), search the grouping (5.1)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt, Range
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.methods.grids import figures
from tgsr.methods.grids.descriptor import DescriptorSpec
from tgsr.methods.grids.ggd import GGD
from tgsr.methods.grids.oracle import TrainingOracle
from tgsr.methods.grids.patches import clean_patches
from tgsr.methods.grids.search import Group, GroupingSearch, SearchResult
from tgsr.methods.grids.similarity import Similarity, degrade_patches, represent, similarity_of
from tgsr.methods.grids.trainings import GroupTrainer, all_tasks, evaluate_tasks, group_key
from tgsr.report.builder import Report
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.journal import Journal, Record
from tgsr.study.measure import open_set
from tgsr.study.pool import run_all
from tgsr.study.stage import Stage
from tgsr.utils.errors import Stopped

logger = logging.getLogger("tgsr")


@dataclass(frozen=True)
class _Represent:
    """GGD of one degradation by one descriptor; keys are `<descriptor>/<degradation>` (see `pool.Work`)."""

    options: Options
    descriptors: Mapping[str, DescriptorSpec]
    images: str
    num_patches: int
    patch_px: int
    num_components: int
    batch_size: int

    def open(self, context: Context) -> Callable[[str], Record]:
        seed, tasks = self.options.manual_seed, {t.name: t for t in all_tasks(self.options)}
        dataset = open_set(self.options, self.images)
        patches = clean_patches(dataset, self.num_patches, self.patch_px, seed=seed).to(context.device)
        built: dict[str, Any] = {}

        def run(key: str) -> Record:
            start, (name, task) = time.perf_counter(), key.split("/")
            if name not in built:
                built.clear()  # one network at a time
                built[name] = self.descriptors[name].build().to(context.device)
            ggd = represent(
                built[name],
                degrade_patches(patches, tasks[task], seed=seed),
                num_components=self.num_components,
                batch_size=self.batch_size,
            )
            seconds = round(time.perf_counter() - start, 3)
            return {"alpha": ggd.alpha, "sigma": ggd.sigma, "about": built[name].to_json(), "seconds": seconds}

        return run


@RUNNERS.register()
class MeasureSimilarity(Stage):
    """Section 4.2: degrade the same patches by every degradation, represent, compare -> `similarity.npz`, Fig. 3.

    Args:
        descriptor: the feature extractor; the paper's is an SRResNet for x4 bicubic, layer `body`.
        images: name of the set under `datasets.val` that the clean patches come from.
        num_patches: P; the paper's PIES has 800.
        patch_px: edge of a patch; 128 in PIES.
        num_components: of the PCA.
        batch_size: patches of a forward pass.
        baselines: name -> another descriptor, measured in the same way -> `similarity_<name>.npz` (Table 2b).
    """

    product = "similarity.npz"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"num_patches": 6, "patch_px": 32}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        descriptor: DescriptorSpec,
        images: str,
        num_patches: PositiveInt = 800,
        patch_px: PositiveInt = 128,
        num_components: PositiveInt = 300,
        batch_size: PositiveInt = 16,
        baselines: dict[str, DescriptorSpec] | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.images, self.num_patches, self.patch_px = images, num_patches, patch_px
        self.num_components, self.batch_size = num_components, batch_size
        self.descriptors = {"descriptor": descriptor, **(baselines or {})}

    def units(self) -> tuple[float, str]:
        return self.num_patches * len(self.descriptors), "patches"

    def work(self) -> None:
        names = all_tasks(self.options).names
        work = _Represent(
            self.options, self.descriptors, self.images, self.num_patches, self.patch_px, self.num_components,
            self.batch_size,
        )  # fmt: skip
        config = options_hash(self.options)
        journal = Journal(self.folder / f"ggds_{config}.jsonl", schema="tgsr.grids_ggds", protocol={"options": config})
        keys = [f"{d}/{n}" for d in self.descriptors for n in names]
        if not run_all(work, keys, journal, self.context, processes=1, label=self.options.name):
            raise Stopped
        found = journal.shared(self.context)
        if self.context.is_main:
            for name in self.descriptors:
                self._write(name, names, [found[f"{name}/{n}"] for n in names])

    def _write(self, name: str, names: list[str], records: Sequence[Record]) -> None:
        seconds = round(sum(r["seconds"] for r in records), 1)
        about = {
            "num_patches": self.num_patches, "patch_px": self.patch_px, "num_components": self.num_components,
            "seed": self.options.manual_seed, "descriptor": records[0]["about"],
            "options": options_hash(self.options), "seconds": seconds,
        }  # fmt: skip
        similarity_of(names, [GGD(r["alpha"], r["sigma"]) for r in records], about).save(self._path(name))
        logger.info("%s: %d degradations in %.1f s", self._path(name), len(names), seconds)

    def _path(self, name: str) -> Path:
        return self.folder / ("similarity.npz" if name == "descriptor" else f"similarity_{name}.npz")

    def page(self) -> Report:
        found = {name: Similarity.load(self._path(name)) for name in self.descriptors}
        return figures.similarity_report(found.pop("descriptor"), found)

    def check(self) -> list[str]:
        self.descriptors["descriptor"].build()
        open_set(self.options, self.images)
        return []


@dataclass(frozen=True, kw_only=True)
class GroupsFile(Artefact):
    """A `groups.json`: the groups, what was asked on the way to them, and the networks.

    Attributes:
        groups: `{members, mean_distance, drop, psnr, weights}` of each.
        degradations: all of them.
        delta: largest accepted drop in dB.
        rules: what a group had to pass beside delta, and which of the smallest partitions was taken.
        solutions: all partitions of least size that were found.
        single_psnr: degradation -> PSNR of its single-task network.
        input_psnr: degradation -> PSNR of the degraded images, where it was asked for.
        max_size, kept, asked, num_trainings, num_failed, num_candidates, training_seconds: of the search.
        protocol: of the trainings.
    """

    schema: ClassVar[str] = "tgsr.grids_groups"
    made_by: ClassVar[str] = "SearchGrouping"

    groups: Sequence[Mapping[str, Any]]
    degradations: Sequence[str] = ()
    delta: float | None = None
    rules: Mapping[str, bool] = field(default_factory=dict)
    solutions: Sequence[Sequence[Sequence[str]]] = ()
    single_psnr: Mapping[str, float] = field(default_factory=dict)
    input_psnr: Mapping[str, float] = field(default_factory=dict)
    max_size: int | None = None
    kept: Mapping[str, int] = field(default_factory=dict)
    asked: Sequence[Mapping[str, Any]] = ()
    num_trainings: int = 0
    num_failed: int = 0
    num_candidates: int = 0
    training_seconds: float = 0.0
    protocol: Mapping[str, Any] = field(default_factory=dict)


@RUNNERS.register()
class SearchGrouping(Stage):
    """Section 5.1 and Algorithm 1: the fewest groups whose models lose at most `delta` -> `groups.json`.

    `train`, `network_g` and `datasets.train` of the option file are the budget of every training: first one for each
    degradation, then one for each group the search asks for. All trainings are kept in `oracle.jsonl`; an interrupted
    search goes on.

    Args:
        similarity: `similarity.npz`.
        val: set under `datasets.val` that performance is measured on.
        delta: largest accepted drop in dB (0.7 in the paper).
        bucket: means of S within this step count as equal and are ordered by variance.
        top_k: groups of a size that may be tried before L_max is lowered (1 in the paper).
        max_size: largest group; None: no limit.
        resolution: cut-offs are sought to this share of the groups of a size (0 in the paper).
        find_all: keep all partitions of least size, not only the first.
        least_drop: take the one of least drop among them, whatever the order of the degradations; in the paper the
            first.
        above_input: accept a group only if every member also ends above its input; the paper does not ask.
        networks: group (`a+b`) -> weights that other stages have trained with the same options: not trained again.
        retry_failed: train again what failed before.
        processes: trainings at once in each rank; None: one per core on a CPU, one on a GPU.
    """

    product = "groups.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"max_size": 2, "resolution": 0.5, "processes": 1}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        similarity: Path,
        val: str,
        delta: float = 0.7,
        bucket: float = 0.05,
        top_k: PositiveInt = 1,
        max_size: PositiveInt | None = None,
        resolution: Annotated[float, Range(0, 0.5)] = 0.0,
        find_all: bool = False,
        least_drop: bool = False,
        above_input: bool = False,
        networks: dict[str, Path] | None = None,
        retry_failed: bool = False,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.similarity, self.val, self.delta, self.bucket = similarity, val, delta, bucket
        self.top_k, self.max_size, self.resolution, self.find_all = top_k, max_size, resolution, find_all
        self.least_drop, self.above_input = least_drop, above_input
        self.networks, self.retry_failed, self.processes = networks, retry_failed, processes

    def units(self) -> tuple[float, str]:
        return trainings_units(self.options, 2 * len(all_tasks(self.options)))

    def work(self) -> None:
        similarity = Similarity.load(self.similarity)
        tasks = all_tasks(self.options)
        places = [similarity.index(n) for n in tasks.names]
        inputs = None
        if self.above_input:
            inputs = evaluate_tasks(lambda lq: lq, self.options, self.val, "psnr", tasks, self.context)
        with self._trainer() as trainer:
            oracle = TrainingOracle(tasks.names, trainer, retry_failed=self.retry_failed, inputs=inputs)
            singles = oracle.train_singles()
            search = GroupingSearch(
                similarity.matrix[np.ix_(places, places)],
                oracle,
                delta=self.delta,
                bucket=self.bucket,
                top_k=self.top_k,
                max_size=self.max_size,
                resolution=self.resolution,
                find_all=self.find_all,
                least_drop=self.least_drop,
            )
            result = search.run()
        if self.context.is_main:
            found = self._file(tasks.names, result, trainer, search, single_psnr=singles, input_psnr=inputs or {})
            found.save(self.folder / self.product)
            for group in found.groups:
                logger.info("group %s: drop %.2f dB", group_key(group["members"]), group["drop"])
            logger.info("%d groups after %d trainings", len(found.groups), found.num_trainings)

    def _trainer(self) -> GroupTrainer:
        return GroupTrainer(
            self.options, self.context, self.folder, val=self.val, processes=self.processes, known=self.networks
        )

    def _file(
        self, names: list[str], result: SearchResult, trainer: GroupTrainer, search: GroupingSearch, **psnr: Any
    ) -> GroupsFile:
        def entry(group: Group) -> dict[str, Any]:
            members = sorted(names[i] for i in group)
            trained = trainer.get(members)
            assert trained is not None, "asked for by the search"
            drop = 0.0 if len(group) == 1 else result.drops[group]
            about = {"members": members, "mean_distance": search.mean_distance[group], "drop": drop}
            return {**about, "psnr": dict(trained.psnr), "weights": trained.checkpoint}

        trainings = trainer.trainings
        return GroupsFile(
            groups=[entry(g) for g in sorted(result.partition)],
            degradations=names,
            delta=self.delta,
            rules={"above_input": self.above_input, "least_drop": self.least_drop},
            solutions=[[[names[i] for i in g] for g in s] for s in result.solutions],
            max_size=result.max_size,
            kept={str(k): n for k, n in result.kept.items()},
            asked=[
                {"members": [names[i] for i in g], "drop": d, "mean_distance": search.mean_distance[g]}
                for g, d in result.drops.items()
            ],
            num_trainings=len(trainings),
            num_failed=sum(t.status != "ok" for t in trainings),
            num_candidates=result.num_candidates,
            training_seconds=round(sum(t.seconds for t in trainings), 1),
            protocol=trainer.protocol,
            **psnr,
            **stamp(self.options),
        )

    def page(self) -> Report:
        return figures.grouping_report(GroupsFile.load(self.folder / self.product).to_json())

    def check(self) -> list[str]:
        self._trainer()
        return []


def trainings_units(options: Options, num: int) -> tuple[float, str]:
    """Budget of a stage that trains about `num` networks."""
    return num * (1 if options.train is None else options.train.total_iter), "iterations"


def load_groups(path: Path | str) -> dict[str, Any]:
    """A `groups.json` of `SearchGrouping`; DataError when absent or of another kind."""
    return GroupsFile.load(path).to_json()

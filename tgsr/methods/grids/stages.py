"""Stages of GRIDS: measure the similarity matrix (4.2), search the grouping (5.1)."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt, Range
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.methods.grids import figures
from tgsr.methods.grids.descriptor import DescriptorSpec
from tgsr.methods.grids.oracle import TrainingOracle, group_key
from tgsr.methods.grids.patches import clean_patches
from tgsr.methods.grids.search import Group, GroupingSearch
from tgsr.methods.grids.similarity import Similarity, measure_similarity
from tgsr.methods.grids.trainings import GroupTrainer, all_tasks, stoppable
from tgsr.utils.errors import ConfigError
from tgsr.utils.files import check_schema, read_json, write_json

logger = logging.getLogger("tgsr")
VERSION = 1


def build_set(options: Options, name: str, tasks: Any = None) -> Any:
    """The image set called `name` under `datasets.val`."""
    if name not in options.datasets.val:
        raise ConfigError(
            f"there is no image set '{name}'", place=f"{options.name}: datasets.val",
            remedy=f"known: {', '.join(options.datasets.val) or 'none'}",
        )  # fmt: skip
    return options.datasets.val[name].build(scale=options.scale, tasks=tasks)


@RUNNERS.register()
class MeasureSimilarity(Runner):
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
        self.descriptor, self.images, self.num_patches, self.patch_px = descriptor, images, num_patches, patch_px
        self.num_components, self.batch_size = num_components, batch_size
        self.baselines = dict(baselines or {})

    def run(self) -> None:
        if not self.context.is_main:
            return
        seed = self.options.manual_seed
        tasks = all_tasks(self.options)
        patches = clean_patches(build_set(self.options, self.images, tasks), self.num_patches, self.patch_px, seed=seed)
        patches = patches.to(self.context.device)
        found = {}
        for name, spec in {"": self.descriptor, **self.baselines}.items():
            path = self.folder / (f"similarity_{name}.npz" if name else "similarity.npz")
            start = time.perf_counter()
            found[name] = measure_similarity(
                spec.build().to(self.context.device),
                patches,
                tasks,
                num_components=self.num_components,
                batch_size=self.batch_size,
                seed=seed,
                about={"options": options_hash(self.options), "seconds": 0.0},
            )
            seconds = round(time.perf_counter() - start, 1)
            found[name].about["seconds"] = seconds
            found[name].save(path)
            logger.info("%s: %d degradations in %.1f s", path, len(tasks), seconds)
        page = figures.similarity_report(found.pop(""), found).write(self.folder / "report")
        logger.info("report: %s", page)

    def check(self) -> list[str]:
        self.descriptor.build()
        build_set(self.options, self.images)
        return []


@RUNNERS.register()
class SearchGrouping(Runner):
    """Section 5.1 and Algorithm 1: the fewest groups whose models lose at most `delta` -> `groups.json`, `oracle.json`.

    `train`, `network_g` and `datasets.train` of the option file are the budget of every training: first one for each
    degradation, then one for each group the search asks for. All trainings are kept; an interrupted search goes on.

    Args:
        similarity: `similarity.npz`.
        val: set under `datasets.val` that performance is measured on.
        delta: largest accepted drop in dB (0.7 in the paper).
        bucket: means of S within this step count as equal and are ordered by variance.
        top_k: groups of a size that may be tried before L_max is lowered (1 in the paper).
        max_size: largest group; None: no limit.
        resolution: cut-offs are sought to this share of the groups of a size (0 in the paper).
        find_all: keep all partitions of least size, not only the first.
        retry_failed: train again what failed before.
        processes: trainings at once in each rank; None: one per core on a CPU, one on a GPU.
    """

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
        retry_failed: bool = False,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.similarity, self.val, self.delta, self.bucket = similarity, val, delta, bucket
        self.max_size, self.resolution = max_size, resolution
        self.top_k, self.find_all, self.retry_failed, self.processes = top_k, find_all, retry_failed, processes

    def run(self) -> None:
        similarity = Similarity.load(self.similarity)
        names = all_tasks(self.options).names
        places = [similarity.index(n) for n in names]
        distance = similarity.matrix[np.ix_(places, places)]
        trainer = GroupTrainer(self.options, self.context, self.folder, val=self.val, processes=self.processes)
        with stoppable(self.context), trainer:
            oracle = TrainingOracle(
                names, trainer.memo, trainer, num_parallel=trainer.num_parallel, retry_failed=self.retry_failed
            )
            singles = oracle.train_singles()
            search = GroupingSearch(
                distance,
                oracle,
                delta=self.delta,
                bucket=self.bucket,
                top_k=self.top_k,
                max_size=self.max_size,
                resolution=self.resolution,
                find_all=self.find_all,
            )
            result = search.run()
            if self.context.is_main:
                self._write(names, singles, result, oracle, search)

    def _write(self, names: list[str], singles: dict[str, float], result: Any, oracle: Any, search: Any) -> None:
        def entry(group: Group) -> dict[str, Any]:
            members = sorted(names[i] for i in group)
            trained = oracle.memo.get(members)
            return {
                "members": members,
                "mean_distance": search.mean_distance[group],
                "drop": 0.0 if len(group) == 1 else result.drops[group],
                "psnr": dict(trained.psnr),
                "weights": trained.checkpoint,
            }

        trainings = oracle.memo.trainings
        content = {
            "schema": "tgsr.grids_groups",
            "version": VERSION,
            "seed": self.options.manual_seed,
            "options": options_hash(self.options),
            "degradations": names,
            "delta": self.delta,
            "groups": [entry(g) for g in sorted(result.partition)],
            "solutions": [[[names[i] for i in g] for g in s] for s in result.solutions],
            "single_psnr": singles,
            "max_size": result.max_size,
            "kept": result.kept,
            "asked": [
                {"members": [names[i] for i in g], "drop": d, "mean_distance": search.mean_distance[g]}
                for g, d in result.drops.items()
            ],
            "num_trainings": len(trainings),
            "num_failed": sum(t.status != "ok" for t in trainings),
            "num_candidates": result.num_candidates,
            "training_seconds": round(sum(t.seconds for t in trainings), 1),
            "protocol": oracle.memo.protocol,
        }
        write_json(self.folder / "groups.json", content)
        for group in content["groups"]:
            logger.info("group %s: drop %.2f dB", group_key(group["members"]), group["drop"])
        logger.info("%d groups after %d trainings", len(content["groups"]), len(trainings))
        page = figures.grouping_report(content).write(self.folder / "report")
        logger.info("report: %s", page)

    def check(self) -> list[str]:
        problems = []
        if not self.similarity.exists():
            problems.append(f"{self.similarity}: no such file; run the similarity stage first")
        GroupTrainer(self.options, self.context, self.folder, val=self.val, processes=self.processes)
        return problems


def load_groups(path: Path | str) -> dict[str, Any]:
    """A `groups.json` of `SearchGrouping`; DataError when absent or of another kind."""
    data = read_json(path)
    check_schema(data, "tgsr.grids_groups", path, version=VERSION, made_by="SearchGrouping")
    return data


def with_seed(options: Options, seed: int) -> Options:
    """The same run with another seed."""
    return replace(options, manual_seed=seed)

"""What the router sees of many images, kept so that other groups or rules cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tgsr.config.options import to_plain
from tgsr.config.schema import Options
from tgsr.engine.context import Context
from tgsr.methods.grids.descriptor import Descriptor, descriptor_from_json
from tgsr.methods.grids.discriminant import difference_statistics
from tgsr.methods.grids.ggd import GGD
from tgsr.methods.grids.router import CLEAN, Sampling, image_features, image_ggd
from tgsr.study.journal import Journal, Record
from tgsr.study.measure import open_set
from tgsr.study.pool import run_all
from tgsr.tasks.artefacts import json_digest
from tgsr.tasks.task import Task
from tgsr.utils.errors import Stopped
from tgsr.utils.files import file_digest
from tgsr.utils.image_io import to_tensor


@dataclass(frozen=True)
class Views:
    """One row for each image and class.

    Attributes:
        labels: (N,) index of the class.
        images: (N,) index of the image.
        statistics: (N, D) for the discriminant.
        parameters: (N, 2) shape and standard deviation of single-image GGDs; (0, 2) when not asked for.
        seconds: mean time of a row.
    """

    labels: np.ndarray
    images: np.ndarray
    statistics: np.ndarray
    parameters: np.ndarray
    seconds: float

    @property
    def ggds(self) -> list[GGD]:
        """For the paper's rule."""
        return [GGD(float(a), float(s)) for a, s in self.parameters]


@dataclass(frozen=True)
class _Look:
    """Degrades one image by every task and looks at it as the router will; keys are image indices (`pool.Work`)."""

    options: Options
    set: str
    tasks: Sequence[Task | None]
    descriptor: Mapping[str, Any]
    sampling: Sampling
    with_ggd: bool

    def open(self, context: Context) -> Callable[[str], Record]:
        dataset = open_set(self.options, self.set)
        descriptor = descriptor_from_json(dict(self.descriptor)).to(context.device)

        def run(key: str) -> Record:
            start, index = time.perf_counter(), int(key)
            name, clean = dataset.name(index), to_tensor(dataset.source.read(index))
            rows = []
            for task in self.tasks:
                lq = clean if task is None else task.space.pipeline.apply(clean[None], task.draw_fixed(name))[0]
                features = image_features(descriptor, lq.to(context.device), self.sampling)
                row: dict[str, Any] = {"statistics": difference_statistics(features).tolist()}
                if self.with_ggd:
                    ggd = image_ggd(features, self.sampling, stride=descriptor.stride)
                    row["ggd"] = [ggd.alpha, ggd.sigma]
                rows.append(row)
            return {"rows": rows, "seconds": round(time.perf_counter() - start, 3)}

        return run


def observe(
    options: Options,
    set_name: str,
    tasks: Sequence[Task | None],
    descriptor: Descriptor,
    sampling: Sampling,
    context: Context,
    *,
    num_images: int,
    with_ggd: bool,
    folder: Path,
) -> Views:
    """Degrade whole images with every task (their fixed draws) and look at them as the router will; on all ranks.

    Args:
        options: with the sets.
        set_name: its first images are taken.
        tasks: degradations, None for the clean image; row labels count through them.
        descriptor, sampling: of the router.
        context: the ranks share the images.
        num_images: at most.
        with_ggd: also the single-image GGDs (slower).
        folder: of the journal, `seen_<digest of all this>.jsonl`.

    Raises:
        Stopped: asked to stop.
    """
    dataset, spec = open_set(options, set_name), descriptor.to_json()
    keys = [str(i) for i in range(min(num_images, len(dataset)))]
    weights = spec.get("weights")
    protocol = {
        "set": to_plain(options.datasets.val[set_name]),
        "tasks": [CLEAN if t is None else t.id for t in tasks],
        "descriptor": spec,
        "weights": context.from_main(file_digest(Path(weights)) if weights and context.is_main else None),
        "sampling": asdict(sampling),
        "with_ggd": with_ggd,
    }
    path = folder / f"seen_{json_digest(protocol)}.jsonl"
    journal = Journal(path, schema="tgsr.grids_views", protocol=protocol)
    work = _Look(options, set_name, tasks, spec, sampling, with_ggd)
    if not run_all(work, keys, journal, context, processes=1, label=f"{options.name}: {set_name}"):
        raise Stopped
    return _views([journal.shared(context)[key] for key in keys])


def _views(records: Sequence[Record]) -> Views:
    rows = [(image, label, row) for image, r in enumerate(records) for label, row in enumerate(r["rows"])]
    return Views(
        labels=np.array([label for _, label, _ in rows]),
        images=np.array([image for image, _, _ in rows]),
        statistics=np.array([row["statistics"] for _, _, row in rows]),
        parameters=np.array([row["ggd"] for _, _, row in rows if "ggd" in row]).reshape(-1, 2),
        seconds=sum(r["seconds"] for r in records) / max(1, len(rows)),
    )

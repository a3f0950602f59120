"""What the router sees of many images, kept so that other groups or rules cost nothing."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tgsr.methods.grids.descriptor import Descriptor
from tgsr.methods.grids.discriminant import difference_statistics
from tgsr.methods.grids.ggd import GGD
from tgsr.methods.grids.patches import clean_images
from tgsr.methods.grids.router import Sampling, image_features, image_ggd
from tgsr.tasks.task import Task
from tgsr.utils.files import to_json, write_atomic


@dataclass(frozen=True)
class Views:
    """One row for each image and degradation.

    Attributes:
        labels: (N,) index of the degradation.
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


def observe(
    dataset: Any,
    tasks: Sequence[Task],
    descriptor: Descriptor,
    sampling: Sampling,
    *,
    num_images: int,
    device: torch.device,
    with_ggd: bool,
    cache: Path | None = None,
) -> Views:
    """Degrade whole images with every task (their fixed draws) and look at them as the router will.

    Args:
        dataset: with ground truth; its first images are taken.
        tasks: degradations; row labels count through them.
        descriptor, sampling: of the router.
        num_images: at most.
        device: of the descriptor.
        with_ggd: also the single-image GGDs (slower).
        cache: file that keeps the result for the same arguments.
    """
    num_images = min(num_images, len(dataset))
    key = _key(dataset, tasks, descriptor, sampling, num_images, with_ggd)
    found = _read(cache, key)
    if found is not None:
        return found
    labels, images, statistics, parameters = [], [], [], []
    start = time.perf_counter()
    for place, (name, clean) in enumerate(clean_images(dataset, num_images)):
        for label, task in enumerate(tasks):
            lq = task.space.pipeline.apply(clean[None], task.draw_fixed(name))[0].to(device)
            features = image_features(descriptor, lq, sampling)
            labels.append(label)
            images.append(place)
            statistics.append(difference_statistics(features))
            if with_ggd:
                ggd = image_ggd(features, sampling, stride=descriptor.stride)
                parameters.append((ggd.alpha, ggd.sigma))
    seconds = (time.perf_counter() - start) / max(1, len(labels))
    views = Views(
        np.array(labels), np.array(images), np.array(statistics), np.array(parameters).reshape(-1, 2), seconds
    )
    if cache is not None:
        arrays = {**asdict(views), "key": np.array(key)}
        write_atomic(cache, lambda f: np.savez(f, **arrays))
    return views


def _key(
    dataset: Any, tasks: Sequence[Task], descriptor: Descriptor, sampling: Sampling, num_images: int, with_ggd: bool
) -> str:
    spec = descriptor.to_json()
    weights = spec.get("weights")
    facts = {
        "images": [dataset.place(i) for i in range(num_images)],
        "tasks": [t.id for t in tasks],
        "descriptor": spec,
        "written": Path(weights).stat().st_mtime if weights and Path(weights).exists() else None,
        "sampling": asdict(sampling),
        "with_ggd": with_ggd,
    }
    return hashlib.blake2b(json.dumps(json.loads(to_json(facts)), sort_keys=True).encode(), digest_size=8).hexdigest()


def _read(cache: Path | None, key: str) -> Views | None:
    if cache is None or not cache.exists():
        return None
    try:
        with np.load(cache) as data:
            if str(data["key"]) != key:
                return None
            arrays = {k: data[k] for k in data.files if k != "key"}
    except (OSError, ValueError, KeyError):
        return None
    return Views(**{**arrays, "seconds": float(arrays["seconds"])})

"""Metrics of one image pair: where each is computed, and what was measured before and need not be again."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from tgsr import __version__
from tgsr.metrics.base import Metric
from tgsr.utils.errors import UserError
from tgsr.utils.files import append_jsonl, cache_folder, read_jsonl
from tgsr.utils.luma import luma_of

logger = logging.getLogger("tgsr")


def measure(
    metrics: Mapping[str, Metric], restored: torch.Tensor, gt: torch.Tensor | None, device: torch.device
) -> dict[str, float]:
    """Metric -> value of one image, without those that need a ground truth that it lacks, or more pixels than it has.

    Args:
        metrics: by name.
        restored, gt: `(3, H, W)` in [0, 1] on any device; luma `(1, H, W)` for a network of one channel, and where one
            of the two is luma, the other becomes it.
        device: where metrics that are networks are computed.
    """
    if gt is not None and gt.shape[0] != restored.shape[0]:
        restored, gt = luma_of(restored[None])[0], luma_of(gt[None])[0]
    size = restored.shape[-2:]
    taken = {name: metric for name, metric in metrics.items() if not metric.too_small(*size)}
    wanted = {name: metric for name, metric in taken.items() if gt is not None or not metric.needs_gt}
    return {name: _value(metric, restored, gt, device) for name, metric in wanted.items()}


def _value(metric: Metric, restored: torch.Tensor, gt: torch.Tensor | None, device: torch.device) -> float:
    if not metric.is_network:
        return float(metric(restored, gt))
    try:
        return float(metric(restored.to(device), None if gt is None else gt.to(device)))
    except torch.OutOfMemoryError:
        logger.warning("%s: a %dx%d image is measured on the CPU: no memory", metric.protocol, *restored.shape[:0:-1])
    torch.cuda.empty_cache()
    return float(metric(restored.cpu(), None if gt is None else gt.cpu()))


def tell_too_small(metrics: Mapping[str, Metric], where: str, sizes: Sequence[tuple[str, tuple[int, int]]]) -> None:
    """One warning for every metric that cannot be taken for some images of a set.

    Args:
        metrics: by name.
        where: name of the set.
        sizes: name of each image, and height and width of its result.
    """
    for name, metric in metrics.items():
        found = [(image, problem) for image, size in sizes if (problem := metric.too_small(*size))]
        if found:
            logger.warning(
                "%s: %s is left out for %d of %d images (%s: %s)", where, name, len(found), len(sizes), *found[0]
            )


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, int]]:
    """Metric -> mean over the images for which it was taken, and their number."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: (sum(found) / len(found), len(found)) for name, found in values.items()}


class Remembered:
    """Measures what was not measured before: a baseline is the same for every checkpoint of a comparison.

    Values are kept by the content of both images and the metric's identity, in one file for all runs of a user.
    A metric that does not tell its identity, one of the user's own, is always computed.

    Args:
        path: of the file; None: `measured.jsonl` in `cache_folder()`.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_folder() / "measured.jsonl"
        self._known: dict[str | None, float] = {}
        try:
            self._known = {r["key"]: float(r["value"]) for r in read_jsonl(self.path)}
        except (UserError, OSError, ValueError, LookupError, TypeError):  # a damaged cache is no cache
            with contextlib.suppress(OSError):
                self.path.unlink()

    def measure(
        self, metrics: Mapping[str, Metric], restored: torch.Tensor, gt: torch.Tensor | None, device: torch.device
    ) -> dict[str, float]:
        """See the function `measure`."""
        images = b"".join(_digest(image) for image in (restored, gt) if image is not None)
        keys = {name: _key(metric, images) for name, metric in metrics.items()}
        values = {name: self._known[key] for name, key in keys.items() if key in self._known}
        fresh = measure({n: m for n, m in metrics.items() if n not in values}, restored, gt, device)
        for name, value in fresh.items():
            self._keep(keys[name], value)
        values |= fresh
        return {name: values[name] for name in metrics if name in values}

    def _keep(self, key: str | None, value: float) -> None:
        if key is not None and math.isfinite(value):
            self._known[key] = value
            with contextlib.suppress(UserError):  # a full or foreign disk costs time, not the result
                append_jsonl(self.path, {"key": key, "value": value})


def _key(metric: Metric, images: bytes) -> str | None:
    text = f"{__version__} {metric.identity} {metric.needs_gt} "
    return None if metric.identity is None else hashlib.blake2b(text.encode() + images, digest_size=16).hexdigest()


def _digest(image: torch.Tensor) -> bytes:
    values = image.detach().cpu().contiguous().numpy()
    return hashlib.blake2b(f"{values.dtype} {values.shape}".encode() + values.tobytes(), digest_size=16).digest()

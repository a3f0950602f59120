"""Folders of images restored elsewhere: the same metrics and protocol stamp, so that they get a row in a table."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from tgsr.engine.logger import progress
from tgsr.metrics.base import METRICS, Metric
from tgsr.metrics.measure import mean_of, measure, tell_too_small
from tgsr.utils.errors import DataError
from tgsr.utils.image_io import list_images, probe_image, read_image, to_tensor

logger = logging.getLogger("tgsr")


def default_metrics(*, crop_border: int) -> dict[str, Metric]:
    """PSNR and SSIM on Y, and NIQE."""
    return {
        "psnr": METRICS.get("PSNR")(crop_border=crop_border),
        "ssim": METRICS.get("SSIM")(crop_border=crop_border),
        "niqe": METRICS.get("NIQE")(),
    }


def evaluate_folder(
    restored: Path,
    gt: Path | None,
    metrics: Mapping[str, Metric],
    *,
    name: str,
    suffix: str = "",
    scale: int | None = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Measure a folder of restored images.

    Args:
        restored: the images; a ground truth `a/b.png` belongs to `a/b<suffix>.*`.
        gt: ground truth folder; without one only metrics that need none are taken.
        metrics: by name.
        name: of the method, also used as the set's name.
        suffix: of the restored images' stems.
        scale: cut the ground truth to a multiple of it at the bottom and right, as data sets do; None: never cut.
        device: where metrics that are networks are computed; None: on the CPU.

    Returns:
        The content of a `metrics.json` (schema `tgsr.metrics`).

    Raises:
        DataError: images without a partner or of another size, all of them named before anything is measured.
    """
    pairs = _pairs(restored, gt, suffix)
    used = {k: m for k, m in metrics.items() if gt is not None or not m.needs_gt}
    if not metrics:
        raise DataError("there is no metric", place=str(restored), remedy="name one under val.metrics")
    if not used:
        raise DataError("no metric works without ground truth", place=str(restored), remedy="give --gt, or use NIQE")
    tell_too_small(used, name, _check_sizes(restored, pairs, scale))
    images = [
        {"name": label, "metrics": _measure(path, gt_path, used, scale, device or torch.device("cpu")), "files": {}}
        for label, path, gt_path in progress(pairs, name, is_shown=True)
    ]
    means = mean_of([image["metrics"] for image in images])
    if not means:
        remedy = "choose others with -opt FILE.yml"
        raise DataError("no metric can be taken of any image", place=str(restored), remedy=remedy)
    return {
        "schema": "tgsr.metrics",
        "version": 1,
        "name": name,
        "weights": str(restored),
        "iteration": None,
        "datasets": {
            name: {
                "metrics": {
                    k: {
                        "mean": mean,
                        "protocol": used[k].protocol,
                        "num_images": num_images,
                        "higher_is_better": used[k].higher_is_better,
                    }
                    for k, (mean, num_images) in means.items()
                },
                "baselines": {},
                "images": images,
            }
        },
    }


def _measure(
    path: Path, gt_path: Path | None, metrics: Mapping[str, Metric], scale: int | None, device: torch.device
) -> dict[str, float]:
    image = _read(path)
    reference = None if gt_path is None else _read(gt_path)
    if reference is not None and scale is not None:
        height, width = (n // scale * scale for n in reference.shape[1:])
        reference = reference[:, :height, :width]
    return measure(metrics, image, reference, device)


def _pairs(restored: Path, gt: Path | None, suffix: str) -> list[tuple[str, Path, Path | None]]:
    """`(name, restored image, ground truth)`; DataError that names what has no partner."""
    if gt is None:
        return [(str(p.relative_to(restored)), p, None) for p in list_images(restored)]
    by_stem = {_stem(p, restored): p for p in list_images(restored)}
    pairs, missing = [], []
    for path in list_images(gt):
        stem = _stem(path, gt)
        partner = by_stem.pop(stem + suffix, None)
        if partner is None:
            missing.append(stem + suffix)
        else:
            pairs.append((stem, partner, path))
    if missing:
        guess = _suffix_of(missing[0].removesuffix(suffix), by_stem)
        raise DataError(
            f"{len(missing)} of {len(missing) + len(pairs)} ground-truth images have no restored partner: "
            + ", ".join(missing[:5]),
            place=str(restored),
            remedy=f"give --suffix {guess}" if guess else "give --suffix if the restored names have one",
        )
    if by_stem:
        logger.warning(
            "%s: %d images without a ground truth are left out: %s", restored, len(by_stem), ", ".join([*by_stem][:5])
        )
    return pairs


def _stem(path: Path, root: Path) -> str:
    return str(path.relative_to(root).with_suffix(""))


def _suffix_of(stem: str, names: Iterable[str]) -> str:
    """What the one restored name that begins like this ground truth has beyond it."""
    found = [name[len(stem) :] for name in names if name.startswith(stem) and name != stem]
    return found[0] if len(found) == 1 else ""


def _check_sizes(
    restored: Path, pairs: list[tuple[str, Path, Path | None]], scale: int | None
) -> list[tuple[str, tuple[int, int]]]:
    """Name and size of each image from the headers, compared before anything is measured."""
    problems, is_cut, sizes = [], True, []
    for label, path, gt_path in pairs:
        info = probe_image(path)
        sizes.append((label, (info.height, info.width)))
        if gt_path is None:
            continue
        wanted = probe_image(gt_path)
        height, width = (n if scale is None else n // scale * scale for n in (wanted.height, wanted.width))
        if (info.height, info.width) != (height, width):
            problems.append(f"{label}: {info.width}x{info.height} but ground truth {width}x{height}")
            is_cut &= 0 <= height - info.height < 8 and 0 <= width - info.width < 8
    if problems:
        raise DataError(
            f"{len(problems)} images differ in size from their ground truth: {'; '.join(problems[:5])}",
            place=str(restored),
            remedy="give --scale to cut the ground truth to a multiple of it" if is_cut else "check --gt and the scale",
        )
    return sizes


def _read(path: Path) -> torch.Tensor:
    return to_tensor(read_image(path))

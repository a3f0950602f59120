"""Folders of images restored elsewhere: the same metrics and protocol stamp, so that they get a row in a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tgsr.metrics.base import METRICS, Metric
from tgsr.utils.errors import DataError
from tgsr.utils.image_io import list_images, read_image, to_tensor


def default_metrics(*, crop_border: int) -> dict[str, Metric]:
    """PSNR and SSIM on Y, and NIQE."""
    return {
        "psnr": METRICS.get("PSNR")(crop_border=crop_border),
        "ssim": METRICS.get("SSIM")(crop_border=crop_border),
        "niqe": METRICS.get("NIQE")(),
    }


def evaluate_folder(
    restored: Path, gt: Path | None, metrics: Mapping[str, Metric], *, name: str, suffix: str = ""
) -> dict[str, Any]:
    """Measure a folder of restored images.

    Args:
        restored: the images; a ground truth `a/b.png` belongs to `a/b<suffix>.*`.
        gt: ground truth folder; without one only metrics that need none are taken.
        metrics: by name.
        name: of the method, also used as the set's name.
        suffix: of the restored images' stems.

    Returns:
        The content of a `metrics.json` (schema `tgsr.metrics`).

    Raises:
        DataError: images without a partner or of another size, all of them named.
    """
    pairs = _pairs(restored, gt, suffix)
    used = {k: m for k, m in metrics.items() if gt is not None or not m.needs_gt}
    if not used:
        raise DataError("no metric works without ground truth", place=str(restored), remedy="give --gt, or use NIQE")
    images, problems = [], []
    for label, path, gt_path in pairs:
        image = _read(path)
        reference = None if gt_path is None else _read(gt_path)
        if reference is not None and reference.shape != image.shape:
            problems.append(f"{label}: {tuple(image.shape[1:])} but ground truth {tuple(reference.shape[1:])}")
            continue
        images.append({"name": label, "metrics": {k: m(image, reference) for k, m in used.items()}, "files": {}})
    if problems:
        raise DataError(
            f"{len(problems)} images differ in size from their ground truth: {'; '.join(problems[:5])}",
            place=str(restored),
            remedy="crop the ground truth to a multiple of the scale",
        )
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
                        "mean": sum(i["metrics"][k] for i in images) / len(images),
                        "protocol": m.protocol,
                        "num_images": len(images),
                        "higher_is_better": m.higher_is_better,
                    }
                    for k, m in used.items()
                },
                "baselines": {},
                "images": images,
            }
        },
    }


def _pairs(restored: Path, gt: Path | None, suffix: str) -> list[tuple[str, Path, Path | None]]:
    """`(name, restored image, ground truth)`; DataError that names what has no partner."""
    if gt is None:
        return [(str(p.relative_to(restored)), p, None) for p in list_images(restored)]
    by_stem = {str(p.relative_to(restored).with_suffix("")): p for p in list_images(restored)}
    pairs, missing = [], []
    for path in list_images(gt):
        stem = str(path.relative_to(gt).with_suffix(""))
        partner = by_stem.get(stem + suffix)
        if partner is None:
            missing.append(stem + suffix)
        else:
            pairs.append((stem, partner, path))
    if missing:
        raise DataError(
            f"{len(missing)} of {len(missing) + len(pairs)} ground-truth images have no restored partner: "
            + ", ".join(missing[:5]),
            place=str(restored),
            remedy="give --suffix if the restored names have one",
        )
    return pairs


def _read(path: Path) -> torch.Tensor:
    return to_tensor(read_image(path))

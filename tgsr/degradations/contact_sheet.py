"""A sheet of images beside their degraded forms, with the parameters beneath, to see what a space does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import torch

from tgsr.degradations.base import Space
from tgsr.degradations.kernels import KERNEL_TYPES
from tgsr.degradations.params import DegradationParams
from tgsr.degradations.presets import RESIZE_MODES
from tgsr.utils.errors import DataError

_LINE, _MARGIN, _FONT, _FONT_SIZE = 20, 6, cv2.FONT_HERSHEY_SIMPLEX, 0.5
_SHORT_KINDS = ("iso", "aniso", "gen iso", "gen aniso", "plateau iso", "plateau aniso")


class Drawable(Protocol):
    """A task, as far as the sheet needs it."""

    name: str
    space: Space

    def draw(self, seed: int, stream: str, *keys: int | str) -> DegradationParams: ...


def contact_sheet(
    images: Sequence[np.ndarray],
    tasks: Sequence[Drawable],
    *,
    num: int = 16,
    seed: int = 0,
    tile: int = 256,
    num_columns: int = 3,
) -> np.ndarray:
    """Degrade centre crops; each stands left of its degraded form, what was drawn beneath both.

    Args:
        images: ground truth, `(H, W, 3)` or `(H, W)` RGB, uint8, uint16 or float in [0, 1]; used in turn.
        tasks: used in turn: tile `i` shows task `i % len(tasks)`.
        num: number of pairs.
        seed: of the drawn parameters and the noise.
        tile: edge of a crop in pixels; degraded crops are enlarged to it by repeating pixels.
        num_columns: pairs in a row.

    Returns:
        `(H, W, 3)` uint8 RGB.
    """
    if not images or num < 1:
        raise DataError("a contact sheet needs at least one image and one tile", remedy="give images and num >= 1")
    tiles, texts = [], []
    for i in range(num):
        task = tasks[i % len(tasks)]
        crop = _centre_crop(_as_float(images[i % len(images)]), tile)
        params = task.draw(seed, "contact-sheet", i)
        gt = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))[None]
        lq = task.space.pipeline.apply(gt, params, backend="cpu")[0].permute(1, 2, 0).numpy()
        degraded = cv2.resize(np.rint(lq * 255).astype(np.uint8), (tile, tile), interpolation=cv2.INTER_NEAREST)
        tiles.append(np.concatenate([np.rint(crop * 255).astype(np.uint8), degraded], axis=1))
        texts.append([task.name, *describe(params.row(0))])
    return _lay_out(tiles, texts, min(num_columns, num))


def describe(row: Mapping[str, Any]) -> list[str]:
    """Lines of text for one row of parameters; parameters without a line of their own are listed by name."""
    if "num_stages" not in row:
        used = {k: v for k, v in row.items() if k != "noise_seed" and not (isinstance(v, float) and math.isnan(v))}
        return [f"{k} {v:.4g}" for k, v in used.items() if v != -1] or ["no parameters"]
    lines = []
    for stage in range(1, row["num_stages"] + 1):
        lines.append(f"{stage} blur {_kernel_text(row, stage)}")
        mode = RESIZE_MODES[row[f"resize{stage}_mode"]]
        jpeg = f"q {row[f'jpeg{stage}_quality']:.0f}" if row[f"jpeg{stage}"] else "no jpeg"
        lines.append(f"  x{row[f'resize{stage}_scale']:.2f} {mode}  {_noise_text(row, stage)}  {jpeg}")
    sinc = f"sinc {row['final_size']} {row['final_omega']:.2f}" if row["final_sinc"] else "no sinc"
    order = "resize, jpeg" if row["final_order"] == 0 else "jpeg, resize"
    return [*lines, f"end {order}  {RESIZE_MODES[row['final_mode']]}  {sinc}"]


def _kernel_text(row: Mapping[str, Any], stage: int) -> str:
    value = {k: row[f"kernel{stage}_{k}"] for k in ("size", "is_sinc", "omega", "type", "sigma_x", "sigma_y", "theta")}
    if not row[f"blur{stage}"]:
        return "none"
    if value["is_sinc"]:
        return f"sinc {value['size']} cut-off {value['omega']:.2f}"
    text = f"{_SHORT_KINDS[value['type']]} {value['size']} s {value['sigma_x']:.2f}"
    if "aniso" in KERNEL_TYPES[value["type"]]:
        text += f",{value['sigma_y']:.2f} {math.degrees(value['theta']):.0f} deg"
    beta = [None, "beta_g", "beta_p"][value["type"] // 2]
    return text + (f" b {row[f'kernel{stage}_{beta}']:.2f}" if beta else "")


def _noise_text(row: Mapping[str, Any], stage: int) -> str:
    kind = row[f"noise{stage}_kind"]
    if kind not in (0, 1):
        return "no noise"
    gray = "gray " if row[f"noise{stage}_is_gray"] else ""
    if kind == 0:
        return f"{gray}gauss {row[f'noise{stage}_sigma_255']:.1f}"
    return f"{gray}poisson {row[f'noise{stage}_poisson_scale']:.2f}"


def _as_float(image: np.ndarray) -> np.ndarray:
    image = image[..., None].repeat(3, axis=2) if image.ndim == 2 else image[..., :3]
    image = image.repeat(3, axis=2) if image.shape[2] == 1 else image
    if image.dtype.kind == "u":
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return image.astype(np.float32)


def _centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """`(size, size, 3)`, a smaller image continued by reflection."""
    h, w = image.shape[:2]
    if h < size or w < size:
        image = np.pad(image, ((0, max(0, size - h)), (0, max(0, size - w)), (0, 0)), mode="symmetric")
        h, w = image.shape[:2]
    top, left = (h - size) // 2, (w - size) // 2
    return image[top : top + size, left : left + size]


def _lay_out(tiles: list[np.ndarray], texts: list[list[str]], num_columns: int) -> np.ndarray:
    num_rows, (tile, width) = -(-len(tiles) // num_columns), tiles[0].shape[:2]
    texts = [[part for line in lines for part in _wrap(line, width)] for lines in texts]
    height = tile + _LINE * max(map(len, texts)) + 2 * _MARGIN
    sheet = np.full((num_rows * height, num_columns * (width + 2 * _MARGIN), 3), 255, dtype=np.uint8)
    for i, (image, lines) in enumerate(zip(tiles, texts, strict=True)):
        top, left = i // num_columns * height + _MARGIN, i % num_columns * (width + 2 * _MARGIN) + _MARGIN
        sheet[top : top + tile, left : left + width] = image
        for k, line in enumerate(lines, 1):
            place = (left, top + tile + _LINE * k - 5)
            cv2.putText(sheet, line, place, _FONT, _FONT_SIZE, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet


def _wrap(line: str, width: int) -> list[str]:
    """The line in parts that fit, broken at blanks; later parts are indented."""
    parts = [""]
    for word in line.split(" "):
        longer = f"{parts[-1]} {word}" if parts[-1] else word
        if parts[-1].strip() and cv2.getTextSize(longer, _FONT, _FONT_SIZE, 1)[0][0] > width:
            parts.append(f"    {word}")
        else:
            parts[-1] = longer
    return parts

"""Image strips LQ | baseline | ours | GT: whole images above, the part where the methods differ most below.

Images are tensors (3, H, W), RGB in [0, 1]. A strip is drawn pixel by pixel: what it shows of the crops is what the
networks put out, enlarged without interpolation.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from tgsr.report.tables import DIGITS, format_value
from tgsr.utils.errors import DataError
from tgsr.utils.image_io import read_image, to_tensor, to_uint8

GAP = 6
LABEL_HEIGHT = 22
NOTE_HEIGHT = 18
FRAME = "#D55E00"
_DPI = 128  # a power of two: pixels / dpi * dpi is exact


@dataclass(frozen=True)
class Panel:
    """One image of a strip.

    Attributes:
        label: above the image, e.g. `LQ`, `bicubic`, `ours`, `GT`.
        image: (3, H, W) RGB in [0, 1]; smaller than the others by a whole factor for the LQ.
        note: below the crop, e.g. its metrics.
    """

    label: str
    image: torch.Tensor
    note: str = ""


def choose_crop(ours: torch.Tensor, baseline: torch.Tensor, *, size: int, multiple: int = 1) -> tuple[int, int]:
    """Top left corner of the square in which two images differ most.

    Args:
        ours, baseline: (3, H, W).
        size: edge of the square, at most the shorter edge of the images.
        multiple: both coordinates are multiples of it, so that the crop starts on a whole pixel of the LQ.

    Returns:
        (top, left); the first such place in reading order where several are equal.
    """
    if ours.shape != baseline.shape:
        raise ValueError(f"images of {tuple(ours.shape)} and {tuple(baseline.shape)} cannot be compared")
    difference = (ours.double() - baseline.double()).abs().sum(0).cpu().numpy()
    total = np.pad(difference, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    window = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    window = np.round(window[::multiple, ::multiple], 9)  # rounding noise of the sums is no reason to move the crop
    top, left = np.unravel_index(int(window.argmax()), window.shape)
    return int(top) * multiple, int(left) * multiple


def make_strip(panels: Sequence[Panel], *, crop: tuple[int, int, int], panel_width: int = 256) -> bytes:
    """Draw a strip as a PNG.

    Args:
        panels: left to right; the largest image sets the scale.
        crop: (top, left, size) in pixels of the largest image.
        panel_width: width of a panel and edge of the enlarged crop, px.

    Returns:
        PNG of `len(panels) * (panel_width + GAP) + GAP` px width.
    """
    if not panels:
        raise ValueError("a strip needs at least one panel")
    top, left, size = crop
    height = max(p.image.shape[1] for p in panels)
    width = max(p.image.shape[2] for p in panels)
    view = min(round(panel_width * height / width), round(panel_width * 1.5))
    note = NOTE_HEIGHT if any(p.note for p in panels) else 0
    canvas_w = len(panels) * (panel_width + GAP) + GAP
    canvas_h = GAP + LABEL_HEIGHT + view + GAP + panel_width + note + GAP
    canvas = np.full((canvas_h, canvas_w, 3), 255, np.uint8)
    frames = []
    for i, panel in enumerate(panels):
        x, y = GAP + i * (panel_width + GAP), GAP + LABEL_HEIGHT
        pixels = to_uint8(panel.image)
        factor = pixels.shape[0] / height
        seen, (dy, dx) = _fit(pixels, panel_width, view)
        canvas[y + dy : y + dy + seen.shape[0], x + dx : x + dx + seen.shape[1]] = seen
        shown = seen.shape[0] / height
        frames.append((x + dx + left * shown, y + dy + top * shown, size * shown))
        a, b, c = (round(v * factor) for v in (top, left, size))
        part = pixels[a : a + max(1, c), b : b + max(1, c)]
        y += view + GAP
        canvas[y : y + panel_width, x : x + panel_width] = cv2.resize(
            part, (panel_width, panel_width), interpolation=cv2.INTER_NEAREST
        )
    return _annotate(canvas, panels, frames, panel_width)


def _fit(pixels: np.ndarray, width: int, height: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Resize into a box, centred: by area when it shrinks, by nearest neighbour when it grows."""
    factor = min(width / pixels.shape[1], height / pixels.shape[0])
    size = (min(width, max(1, round(pixels.shape[1] * factor))), min(height, max(1, round(pixels.shape[0] * factor))))
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    return cv2.resize(pixels, size, interpolation=kind), ((height - size[1]) // 2, (width - size[0]) // 2)


def _annotate(
    canvas: np.ndarray, panels: Sequence[Panel], frames: Sequence[tuple[float, float, float]], panel_width: int
) -> bytes:
    # every run imports this room, few draw: matplotlib takes half a second
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    height, width = canvas.shape[:2]
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    with rc_context({"font.family": "DejaVu Sans"}):
        figure.figimage(canvas, 0, 0, origin="upper")
        for i, (panel, (x, y, size)) in enumerate(zip(panels, frames, strict=True)):
            centre = (GAP + i * (panel_width + GAP) + panel_width / 2) / width
            figure.text(centre, 1 - (GAP + LABEL_HEIGHT / 2) / height, panel.label, ha="center", va="center",
                        fontsize=14 * 72 / _DPI, weight="bold", color="#222222")  # fmt: skip
            if panel.note:
                figure.text(centre, (GAP + NOTE_HEIGHT / 2 - 2) / height, panel.note, ha="center", va="center",
                            fontsize=12 * 72 / _DPI, color="#333333")  # fmt: skip
            corner, extent = (x / width, 1 - (y + size) / height), (size / width, size / height)
            for colour, pixels in (("white", 4), (FRAME, 2)):  # the white rim shows the frame on dark images
                line = {"edgecolor": colour, "linewidth": pixels * 72 / _DPI, "fill": False}
                figure.add_artist(Rectangle(corner, *extent, transform=figure.transFigure, **line))
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": None})
    return out.getvalue()


def strip_of(
    image: Mapping[str, Any],
    root: Path,
    *,
    ours: str = "ours",
    baseline: str | None = None,
    crop_size: int = 64,
    panel_width: int = 256,
) -> bytes | None:
    """The strip of one image entry of `metrics.json`.

    Args:
        image: `{name, metrics, baselines, files}`; files other than `lq`, `sr` and `gt` are baselines.
        root: what the file names are relative to.
        ours: label of the restored image.
        baseline: the enlarged part is where the restored image differs most from this one; None: from the first.
        crop_size: edge of the enlarged part, px of the restored image.

    Returns:
        PNG, or None where there is no readable restored image. Other images that are absent are left out.
    """
    files = image.get("files", {})
    found = {kind: opened for kind, name in files.items() if (opened := _open(root / name)) is not None}
    if "sr" not in found:
        return None
    restored = found["sr"]
    _, height, width = restored.shape
    others = [k for k in found if k not in ("lq", "sr", "gt") and found[k].shape == restored.shape]
    size = min(crop_size, height, width)
    multiple = max(1, round(height / found["lq"].shape[1])) if "lq" in found else 1
    nearest = baseline if baseline in others else next(iter(others), None)
    reference = found[nearest] if nearest else _enlarged(found.get("lq", found.get("gt", restored)), height, width)
    top, left = choose_crop(restored, reference, size=size, multiple=multiple)
    panels = [Panel("LQ", found["lq"])] if "lq" in found else []
    panels += [Panel(k, found[k], _note(image.get("baselines", {}).get(k, {}))) for k in others]
    panels.append(Panel(ours, restored, _note(image.get("metrics", {}))))
    panels += [Panel("GT", found["gt"])] if "gt" in found else []
    return make_strip(panels, crop=(top, left, size), panel_width=panel_width)


def before_and_after(
    image: Mapping[str, Any], root: Path, *, baseline: str, max_edge: int = 1024
) -> tuple[bytes, bytes] | None:
    """JPEGs of a baseline and of the restored image, for a slider; None where one of them is not there.

    Args:
        image, root: see `strip_of`.
        baseline: name of the file of the first.
        max_edge: larger images are cut to their middle, not shrunk: what matters is in the pixels.
    """
    files = image.get("files", {})
    pair = [_open(root / files[kind]) if kind in files else None for kind in (baseline, "sr")]
    if pair[0] is None or pair[1] is None or pair[0].shape != pair[1].shape:
        return None
    return _jpeg(pair[0], max_edge), _jpeg(pair[1], max_edge)


def _jpeg(image: torch.Tensor, max_edge: int) -> bytes:
    top, left = (max(0, (edge - max_edge) // 2) for edge in image.shape[1:])
    pixels = to_uint8(image[:, top : top + max_edge, left : left + max_edge])
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def time_strips(folder: Path, *, num_times: int = 5, panel_width: int = 192) -> dict[str, bytes]:
    """The same crops at several iterations, from `visualization/<set>/` of an experiment.

    Args:
        folder: `<image>_<iteration>.png`, `<image>_lq.png`, `<image>_gt.png`.
        num_times: iterations shown, at most, spread evenly; the first and the last are among them.

    Returns:
        Image -> PNG: input, the restored image over time, ground truth.
    """
    times: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*_*.png")):
        name, _, kind = path.stem.rpartition("_")
        if kind.isdigit():
            times.setdefault(name, []).append(int(kind))
    strips = {}
    for name, found in times.items():
        found.sort()
        places = np.linspace(0, len(found) - 1, min(num_times, len(found))).round().astype(int)
        named = {"LQ": "lq", **{f"iter {found[p]}": str(found[p]) for p in places}, "GT": "gt"}
        panels = [
            Panel(label, image)
            for label, kind in named.items()
            if (image := _open(folder / f"{name}_{kind}.png")) is not None
        ]
        shown = [p.image for p in panels if p.label.startswith("iter")]
        if not shown:
            continue
        _, height, width = shown[-1].shape
        size = min(64, height, width)
        multiple = max(1, round(height / panels[0].image.shape[1]))
        if len(shown) > 1 and shown[0].shape == shown[-1].shape:
            top, left = choose_crop(shown[-1], shown[0], size=size, multiple=multiple)
        else:
            top, left = ((edge - size) // 2 // multiple * multiple for edge in (height, width))
        strips[name] = make_strip(panels, crop=(top, left, size), panel_width=panel_width)
    return strips


def _open(path: Path) -> torch.Tensor | None:
    try:
        return to_tensor(read_image(path))
    except DataError:
        return None


def _enlarged(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    enlarged = torch.nn.functional.interpolate(image[None], size=(height, width), mode="bicubic", align_corners=False)
    return enlarged[0].clamp(0, 1)


def _note(metrics: Mapping[str, float]) -> str:
    """The first two metrics, e.g. `psnr_y 28.31   ssim_y 0.8120`."""
    parts = []
    for name, value in list(metrics.items())[:2]:
        parts.append(f"{name} {format_value(float(value), DIGITS.get(name.lower().split('_')[0], 3))}")
    return "   ".join(parts)


def choose_images(
    images: Sequence[Mapping[str, Any]],
    *,
    metric: str | None,
    baseline: str | None,
    is_higher_better: bool = True,
    num: int = 4,
) -> list[Mapping[str, Any]]:
    """Images that show a method fairly: from the greatest gain over the baseline to the least, evenly by rank.

    Args:
        images: entries of `metrics.json`; only those with a restored image are considered.
        metric: what the gain is measured by; None, or images without it: the first ones in order.
        baseline: gains are over it; None: images are ranked by the metric itself.
    """
    usable = [i for i in images if i.get("files", {}).get("sr")]
    gains = [(gain, image) for image in usable if (gain := gain_of(image, metric, baseline)) is not None]
    if len(gains) < min(num, len(usable)):
        return list(usable[:num])
    gains.sort(key=lambda found: found[0], reverse=is_higher_better)
    places = np.linspace(0, len(gains) - 1, min(num, len(gains))).round().astype(int)
    return [gains[p][1] for p in places]


def gain_of(image: Mapping[str, Any], metric: str | None, baseline: str | None) -> float | None:
    """Difference of one image entry to the baseline, or its value without one; None where it is not known."""
    value = image.get("metrics", {}).get(metric)
    base = image.get("baselines", {}).get(baseline, {}).get(metric) if baseline else 0.0
    if value is None or base is None or not np.isfinite(float(value) - float(base)):
        return None
    return float(value) - float(base)

"""Inference on files and folders: any image in, a restored one out, one bad file never stops the rest."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from tgsr.engine.logger import progress
from tgsr.engine.network_files import input_channels, load_network
from tgsr.engine.tiling import TiledRestorer, is_out_of_memory
from tgsr.models.precision import Precision, resolve_precision
from tgsr.utils.errors import DataError, UserError
from tgsr.utils.files import write_atomic
from tgsr.utils.image_header import foreign_format, is_known_format
from tgsr.utils.image_io import (
    IMAGE_EXTENSIONS,
    JPEG_EXTENSIONS,
    OTHER_EXTENSIONS,
    Picture,
    can_hold,
    is_image_name,
    probe_image,
    read_picture,
    save_image,
    walk_files,
)
from tgsr.utils.luma import GREY_SHARE, luma_of
from tgsr.utils.resize import imresize

__all__ = ["ImageRestorer", "Outcome", "infer_files", "load_network"]

logger = logging.getLogger("tgsr")

Choose = Callable[[np.ndarray], tuple["ImageRestorer", dict[str, Any]]]

_CPU_PIXELS = 250_000
_GPU_PIXELS = 1_500_000
_QUALITY = 95
_BYTES_PER_PIXEL = 12
"""Of a result while it is made: three channels of fp32."""


class ImageRestorer:
    """Restores image arrays of any kind with one network.

    Args:
        net: the network, in eval mode on its device.
        scale: output size divided by input size.
        device: where it is.
        precision: of the forward pass; half: fp16 on a GPU, bf16 on a CPU.
        tile: tile edge in input pixels; 0 never tiles; None tiles images of more than 1.5 megapixels (0.25 on a CPU).
        outscale: wished output size divided by input size; the network's result is resized bicubically.

    A network of one channel restores grey images as they are; of a colour image it restores the luma, and the colour is
    enlarged bicubically.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        scale: int,
        device: torch.device,
        precision: Literal["auto", "fp32", "bf16", "fp16", "half"] = "fp32",
        tile: int | None = None,
        outscale: float | None = None,
    ) -> None:
        self.scale, self.outscale = scale, outscale
        if precision == "half":
            precision = "fp16" if device.type == "cuda" else "bf16"
        mode = Precision(resolve_precision(precision, device), device)
        net = mode.place(net, channels_last=True)
        limit = _GPU_PIXELS if device.type == "cuda" else _CPU_PIXELS
        if tile == 0:
            tile, limit = None, sys.maxsize
        self.is_grey = input_channels(net) == 1
        self.tiled = TiledRestorer(
            lambda lq: mode.restore(net, lq, channels_last=True), net, scale=scale, tile=tile, max_pixels=limit,
            is_shown=True,
        )  # fmt: skip

    def __call__(self, image: np.ndarray, alpha: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Restore one image.

        Args:
            image: `(H, W, 3)` RGB, uint8 or float in [0, 1].
            alpha: `(H, W)` of the same type; enlarged bicubically, which keeps its edges clean.

        Returns:
            `(H', W', 3)` float32 in [0, 1], and the alpha in the same size.
        """
        restored = self._restored(_tensor(image))
        if not torch.isfinite(restored).all():
            raise UserError("the network put out NaN or infinite pixels", remedy="use --precision fp32")
        size = self.size_of(image)
        if size != tuple(restored.shape[-2:]):
            restored = imresize(restored, size=size)
        restored = restored.clamp(0, 1)
        if alpha is None:
            return _array(restored), None
        large = imresize(_tensor(alpha[..., None]), size=(restored.shape[-2], restored.shape[-1])).clamp(0, 1)
        return _array(restored), _array(large)[..., 0]

    def size_of(self, image: np.ndarray) -> tuple[int, int]:
        """Height and width of the result of an image."""
        factor = self.scale if self.outscale is None else self.outscale
        return max(1, round(image.shape[0] * factor)), max(1, round(image.shape[1] * factor))

    def _restored(self, lq: torch.Tensor) -> torch.Tensor:
        """`(1, 3, h, w)` -> `(1, 3, h * scale, w * scale)`."""
        if not self.is_grey:
            return self.tiled(lq)
        if torch.equal(lq[:, 0], lq[:, 1]) and torch.equal(lq[:, 0], lq[:, 2]):
            return self.tiled(lq[:, :1]).expand(-1, 3, -1, -1)
        large = lq if self.scale == 1 else imresize(lq, scale=self.scale)
        return large + (self.tiled(luma_of(lq)) - luma_of(large)) / GREY_SHARE


def _tensor(image: np.ndarray) -> torch.Tensor:
    values = image.astype(np.float32) / 255 if image.dtype == np.uint8 else image.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]


def _array(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


@dataclass
class Outcome:
    """What happened to a batch of files.

    Attributes:
        written: results.
        failed: file -> why.
        left_out: pictures of other formats, and animations of which the first frame alone was restored -> why.
    """

    written: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    left_out: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Results:
    """Where results go and in which form; two inputs never share a result and no result replaces an input.

    Attributes:
        root: folder that input names are relative to.
        output: folder of the results.
        suffix: added to stems.
        extension: `png`, ...; auto: the input's where it can hold the result.
        quality: of lossy files; None: as lossless as the input.
        taken: result -> its input.
    """

    root: Path
    output: Path
    suffix: str
    extension: str
    quality: int | None
    taken: dict[Path, Path] = field(default_factory=dict)

    def of(self, path: Path, picture: Picture, size: tuple[int, int]) -> Path:
        """The file for the result of `size`, decided before the work."""
        is_deep, has_alpha = picture.pixels.dtype != np.uint8, picture.alpha is not None
        kind = path.suffix if self.extension == "auto" else f".{self.extension.lstrip('.')}"
        if kind.lower() not in IMAGE_EXTENSIONS:  # a file without extension, named by the user
            kind = ".png"
        problem = can_hold(kind, size=size)
        if self.extension == "auto":
            problem = problem or can_hold(kind, is_deep=is_deep, has_alpha=has_alpha)
            if problem:
                logger.info("%s: its result is PNG, since %s cannot hold %s", path.name, kind, problem)
                kind, problem = ".png", can_hold(".png", size=size)
        elif lost := can_hold(kind, is_deep=is_deep, has_alpha=has_alpha):
            logger.info("%s: its result loses %s, which %s cannot hold", path.name, lost, kind)
        if problem:
            raise UserError(f"its result cannot be written: {problem}", place=str(path), remedy="try --ext png or tif")
        _check_memory(path, size)
        target = (self.output / path.relative_to(self.root)).with_name(f"{path.stem}{self.suffix}{kind}")
        if target.resolve() == path.resolve():
            raise UserError("the result would replace its input", place=str(path), remedy="give --suffix or another -o")
        other = self.taken.setdefault(target, path)
        if other != path:
            raise UserError(
                f"its result would replace that of {other.name}: both are {target.name}",
                place=str(path),
                remedy="leave --ext away, or restore them apart",
            )
        return target

    def save(self, target: Path, picture: Picture, restored: np.ndarray, alpha: np.ndarray | None) -> None:
        """Write a result as deep, grey, transparent and lossless as its picture, where the format can."""
        kind = target.suffix.lower()
        quality = self.quality or _QUALITY
        if kind == ".webp" and self.quality is None and picture.info.is_lossless:
            quality = None
        is_deep = picture.pixels.dtype != np.uint8
        save_image(
            target,
            restored.mean(2) if picture.info.channels == 1 else restored,
            alpha=None if can_hold(kind, has_alpha=True) else alpha,
            bit_depth=16 if is_deep and not can_hold(kind, is_deep=True) else 8,
            quality=quality,
            profile=picture.profile,
        )


def _check_memory(path: Path, size: tuple[int, int]) -> None:
    """UserError for a result that cannot fit into this machine's memory: told before hours of work, not after them."""
    needed = size[0] * size[1] * _BYTES_PER_PIXEL
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else sys.maxsize
    if needed > there > 0:
        raise UserError(
            f"its result of {size[1]}x{size[0]} pixels needs {needed / 1e9:.0f} GB, this machine has {there / 1e9:.0f}",
            place=str(path),
            remedy="cut the image into parts, or take a network of a smaller scale",
        )


def infer_files(
    source: Path,
    output: Path,
    choose: Choose,
    *,
    suffix: str = "",
    extension: str = "auto",
    quality: int | None = None,
) -> Outcome:
    """Restore a file or a folder; every file that fails is named and the rest goes on.

    Args:
        source: image or folder.
        output: folder to write to; made if absent.
        choose: image -> the restorer for it and what a router says about the choice (empty without one).
        suffix: added to the stem of output names.
        extension: `png`, `jpg`, ...; auto: the input's, PNG for results that it cannot hold (alpha, 16 bits, size).
        quality: 1 to 100, of JPEG and WebP; None: 95, and lossless WebP for lossless WebP.

    Returns:
        What was written, what failed and what was left out. `choices.jsonl` in the output folder holds the router's
        words.

    Raises:
        UserError: the source is absent or empty, or the output folder cannot be written.
    """
    if extension != "auto" and f".{extension.lstrip('.').lower()}" not in IMAGE_EXTENSIONS:
        raise UserError(f"cannot write '{extension}'", place="--ext", remedy="use png, jpg, tif, webp or bmp")
    outcome = Outcome()
    files = _input_files(source, output, outcome)
    _check_writable(output)
    results = _Results(source if source.is_dir() else source.parent, output, suffix, extension, quality)
    choices = []
    clock = _Clock(files)
    for path in progress(files, "inference", is_shown=True):
        try:
            target, words = _restore_file(path, results, choose, clock, outcome)
        except Exception as error:  # whatever is wrong with one file or its size, the others are worth their try
            outcome.failed[path] = _one_line(path, error)
            logger.error("%s", outcome.failed[path])
            logger.debug("", exc_info=error)
            clock.skip(path)
            continue
        outcome.written.append(target)
        if words:
            choices.append({"file": str(path.relative_to(results.root)), **words})
            logger.info("%s: %s", path.name, words)
    if choices:
        text = "".join(json.dumps(c) + "\n" for c in choices)
        write_atomic(output / "choices.jsonl", lambda file: file.write(text.encode()))
    num_jpeg = sum(path.suffix.lower() in JPEG_EXTENSIONS for path in outcome.written)
    if num_jpeg and quality is None:
        logger.info(
            "%d results are JPEG of quality %d, as their inputs are: --ext png keeps every level, --quality sets it",
            num_jpeg, _QUALITY,
        )  # fmt: skip
    return outcome


def _restore_file(
    path: Path, results: _Results, choose: Choose, clock: _Clock, outcome: Outcome
) -> tuple[Path, dict[str, Any]]:
    picture = read_picture(path)
    clock.start()
    restorer, words = choose(picture.pixels)
    target = results.of(path, picture, restorer.size_of(picture.pixels))
    restored, alpha = restorer(picture.pixels, picture.alpha)
    results.save(target, picture, restored, alpha)
    if (frames := picture.info.num_frames) > 1:
        outcome.left_out[path] = f"only the first of its {frames} frames or pages is restored"
        logger.warning("%s: %s", path.name, outcome.left_out[path])
    clock.done(path, picture.pixels.shape[:2], restored.shape[:2])
    return target, words


def _input_files(source: Path, output: Path, outcome: Outcome) -> list[Path]:
    """The file itself, or all images of a folder but for results in it; other pictures go to `outcome.left_out`."""
    if not source.is_dir():
        if not source.exists():
            raise UserError("no such file or folder", place=str(source), remedy="check -i")
        return [source]
    results = output.resolve()
    is_same = results == source.resolve()
    files = []
    for path in (source / name for name in sorted(walk_files(source))):
        if not is_same and results in path.resolve().parents:
            continue
        if is_image_name(path.name):
            files.append(path)
        elif kind := _other_picture(path):
            outcome.left_out[path] = f"{kind} is not read; convert it to PNG, JPEG, TIFF or WebP"
            logger.warning("%s: left out: %s", path, outcome.left_out[path])
    if not files:
        others = f", but {len(outcome.left_out)} pictures that are not read" if outcome.left_out else ""
        problem = f"the folder holds no images (results aside){others}"
        remedy = f"check -i and -o; read are {', '.join(sorted(IMAGE_EXTENSIONS))}"
        raise DataError(problem, place=str(source), remedy=remedy)
    return files


def _other_picture(path: Path) -> str:
    """What kind of picture a file is whose name does not say that it is read; empty for no picture."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        head = b""
    if is_known_format(head) and path.suffix.lower() not in OTHER_EXTENSIONS:
        return f"an image named '{path.suffix or path.name}'"
    kind = path.suffix.lower() if path.suffix.lower() in OTHER_EXTENSIONS else ""
    return foreign_format(head) or kind


def _check_writable(folder: Path) -> None:
    """Before any work: the folder is there, or can be made, and takes files."""
    probe = folder / ".tgsr_can_write"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        problem = "is a file, not a folder" if folder.is_file() else f"cannot be written: {error.strerror or error}"
        raise UserError(problem, place=str(folder), remedy="give another folder with -o") from None


def _one_line(path: Path, error: Exception) -> str:
    if is_out_of_memory(error):
        return str(UserError("out of memory, twice", place=str(path), remedy="give a smaller --tile, or --half"))
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}"
    return text if str(path) in text else f"{path}: {text}"


class _Clock:
    """How long is left, by pixels; a line for each image where there is no terminal to draw a bar on.

    Args:
        files: all of them.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._pixels = {path: _num_pixels(path) for path in files}
        self._left = sum(self._pixels.values())
        self._total, self._number = len(files), 0
        self._seconds, self._restored = 0.0, 0
        self._started = 0.0
        self._writes_lines = not sys.stderr.isatty()

    def start(self) -> None:
        self._started = time.perf_counter()

    def skip(self, path: Path) -> None:
        self._number += 1
        self._left -= self._pixels[path]

    def done(self, path: Path, before: tuple[int, int], after: tuple[int, int]) -> None:
        seconds = time.perf_counter() - self._started
        self.skip(path)
        self._seconds += seconds
        self._restored += self._pixels[path]
        left = self._seconds / max(1, self._restored) * self._left
        if self._writes_lines:
            sizes = f"{before[1]}x{before[0]} -> {after[1]}x{after[0]}"
            logger.info(
                "%d/%d %s: %s, %.1f s, %s left", self._number, self._total, path.name, sizes, seconds, duration(left)
            )


def _num_pixels(path: Path) -> int:
    try:
        info = probe_image(path)
    except DataError:
        return 0
    return info.height * info.width


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

"""Inference on files and folders: any image in, a restored one out, one bad file never stops the rest."""

from __future__ import annotations

import json
import logging
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
from tgsr.engine.network_files import load_network
from tgsr.engine.tiling import TiledRestorer, is_out_of_memory
from tgsr.models.precision import Precision, resolve_precision
from tgsr.utils.errors import DataError, UserError
from tgsr.utils.files import write_atomic
from tgsr.utils.image_io import is_image_name, list_images, probe_image, read_image_alpha, save_image
from tgsr.utils.resize import imresize

__all__ = ["ImageRestorer", "Outcome", "infer_files", "load_network"]

logger = logging.getLogger("tgsr")

Choose = Callable[[np.ndarray], tuple["ImageRestorer", dict[str, Any]]]

_CPU_PIXELS = 250_000
_GPU_PIXELS = 1_500_000
_DEEP = (".png", ".tif", ".tiff")
_WITH_ALPHA = (*_DEEP, ".webp")


class ImageRestorer:
    """Restores image arrays of any kind with one network.

    Args:
        net: the network, in eval mode on its device.
        scale: output size divided by input size.
        device: where it is.
        precision: of the forward pass; half: fp16 on a GPU, bf16 on a CPU.
        tile: tile edge in input pixels; 0 never tiles; None tiles images of more than 1.5 megapixels (0.25 on a CPU).
        outscale: wished output size divided by input size; the network's result is resized bicubically.
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
        restored = self.tiled(_tensor(image))
        if not torch.isfinite(restored).all():
            raise UserError("the network put out NaN or infinite pixels", remedy="use --precision fp32")
        height, width = image.shape[:2]
        if self.outscale is not None and self.outscale != self.scale:
            size = (max(1, round(height * self.outscale)), max(1, round(width * self.outscale)))
            restored = imresize(restored, size=size)
        restored = restored.clamp(0, 1)
        if alpha is None:
            return _array(restored), None
        large = imresize(_tensor(alpha[..., None]), size=(restored.shape[-2], restored.shape[-1])).clamp(0, 1)
        return _array(restored), _array(large)[..., 0]


def _tensor(image: np.ndarray) -> torch.Tensor:
    values = image.astype(np.float32) / 255 if image.dtype == np.uint8 else image.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]


def _array(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


@dataclass
class Outcome:
    """What happened to a batch of files."""

    written: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Names:
    """Where results go; two inputs never share a result and no result replaces an input.

    Attributes:
        root: folder that input names are relative to.
        output: folder of the results.
        suffix: added to stems.
        extension: `png`, ...; auto: the input's where it can hold the result.
        taken: result -> its input.
    """

    root: Path
    output: Path
    suffix: str
    extension: str
    taken: dict[Path, Path] = field(default_factory=dict)

    def of(self, path: Path, *, is_deep: bool, has_alpha: bool) -> Path:
        kind = f".{self.extension.lstrip('.')}"
        if self.extension == "auto":
            lower = path.suffix.lower()
            fits = (lower in _WITH_ALPHA or not has_alpha) and (lower in _DEEP or not is_deep)
            kind = path.suffix if fits else ".png"
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


def infer_files(source: Path, output: Path, choose: Choose, *, suffix: str = "", extension: str = "auto") -> Outcome:
    """Restore a file or a folder; every file that fails is named and the rest goes on.

    Args:
        source: image or folder.
        output: folder to write to; made if absent.
        choose: image -> the restorer for it and what a router says about the choice (empty without one).
        suffix: added to the stem of output names.
        extension: `png`, `jpg`, ...; auto: the input's, PNG for inputs with alpha or 16 bits that it cannot hold.

    Returns:
        What was written and what failed. `choices.jsonl` in the output folder holds the router's words.

    Raises:
        UserError: the source is absent or empty, or the output folder cannot be written.
    """
    files = _input_files(source, output)
    _check_writable(output)
    names = _Names(source if source.is_dir() else source.parent, output, suffix, extension)
    outcome = Outcome()
    choices = []
    clock = _Clock(files)
    for path in progress(files, "inference", is_shown=True):
        try:
            target, words = _restore_file(path, names, choose, clock)
        except Exception as error:  # whatever is wrong with one file or its size, the others are worth their try
            outcome.failed[path] = _one_line(path, error)
            logger.error("%s", outcome.failed[path])
            logger.debug("", exc_info=error)
            clock.skip(path)
            continue
        outcome.written.append(target)
        if words:
            choices.append({"file": str(path.relative_to(names.root)), **words})
            logger.info("%s: %s", path.name, words)
    if choices:
        text = "".join(json.dumps(c) + "\n" for c in choices)
        write_atomic(output / "choices.jsonl", lambda file: file.write(text.encode()))
    return outcome


def _restore_file(path: Path, names: _Names, choose: Choose, clock: _Clock) -> tuple[Path, dict[str, Any]]:
    if not is_image_name(path.name):
        raise DataError("not an image file name", place=str(path), remedy="give images, or a folder of them")
    info = probe_image(path)
    image, alpha = read_image_alpha(path)
    is_deep = image.dtype != np.uint8
    target = names.of(path, is_deep=is_deep, has_alpha=alpha is not None)
    clock.start()
    restorer, words = choose(image)
    restored, restored_alpha = restorer(image, alpha)
    if info.channels == 1:
        restored = restored.mean(2)
    bit_depth = 16 if is_deep and target.suffix.lower() in _DEEP else 8
    save_image(target, restored, alpha=restored_alpha, bit_depth=bit_depth)
    clock.done(path, image.shape[:2], restored.shape[:2])
    return target, words


def _input_files(source: Path, output: Path) -> list[Path]:
    """The file itself, or all images of a folder but for results that lie inside it."""
    if source.is_dir():
        results = output.resolve()
        is_same = results == source.resolve()
        files = [path for path in list_images(source) if is_same or results not in path.resolve().parents]
        if not files:
            raise DataError("the folder holds no images but results", place=str(source), remedy="check -i and -o")
        return files
    if not source.exists():
        raise UserError("no such file or folder", place=str(source), remedy="check -i")
    return [source]


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

"""Preparing folders of large images: overlapping sub-images, several scales, and meta-info files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from tgsr.data.backends import FileSource
from tgsr.utils.errors import ConfigError, DataError, UserError
from tgsr.utils.files import write_atomic
from tgsr.utils.image_io import list_images, probe_image, read_image, save_image, to_tensor, to_uint8
from tgsr.utils.resize import imresize

T = TypeVar("T")
Progress = Callable[[int, int], None]

DF2K_SCALES = (0.75, 0.5, 1 / 3)
DF2K_SHORTEST_EDGE = 400


def window_starts(length: int, size: int, step: int, thresh: int = 0) -> list[int]:
    """Where windows of `size` begin: every `step`, and one at the very end if more than `thresh` would be left out."""
    if length < size:
        return []
    starts = list(range(0, length - size + 1, step))
    if length - (starts[-1] + size) > thresh:
        starts.append(length - size)
    return starts


def extract_subimages(
    folder: Path,
    output: Path,
    *,
    crop_size: int = 480,
    step: int = 240,
    thresh_size: int = 0,
    png_level: int = 3,
    num_workers: int = 2,
    progress: Progress | None = None,
) -> int:
    """Cut every image into overlapping squares, `<name>_s001.png` and so on. Those that exist are not written again.

    Args:
        folder: images, at any depth.
        output: where the sub-images go, in the same sub-folders.
        crop_size: edge of a sub-image; images smaller than it are left out.
        step: distance between neighbours.
        thresh_size: what is left at the right and bottom gets sub-images of its own when it is wider than this.
        png_level: zlib level.
        num_workers: processes.
        progress: called with (images done, all).

    Returns:
        The number of sub-images there are now.
    """
    if crop_size < 1 or step < 1:
        raise ConfigError(f"crop_size {crop_size} and step {step} must be positive")
    _refuse_same(folder, output)
    work = [
        (path, output / path.relative_to(folder).with_suffix(""), crop_size, step, thresh_size, png_level)
        for path in list_images(folder)
    ]
    total = sum(run_parallel(_cut_image, work, num_workers=num_workers, progress=progress))
    if total == 0:
        raise DataError(f"no image is as large as the crop of {crop_size}", place=str(folder))
    return total


def _cut_image(path: Path, target: Path, crop_size: int, step: int, thresh: int, level: int) -> int:
    info = probe_image(path)
    corners = [
        (top, left)
        for top in window_starts(info.height, crop_size, step, thresh)
        for left in window_starts(info.width, crop_size, step, thresh)
    ]
    files = [target.with_name(f"{target.name}_s{i:03d}.png") for i in range(1, len(corners) + 1)]
    if all(f.exists() for f in files):
        return len(files)
    image = read_image(path)
    for (top, left), file in zip(corners, files, strict=True):
        if not file.exists():
            part = image[top : top + crop_size, left : left + crop_size]
            save_image(file, part, png_level=level, bit_depth=8 if image.dtype == np.uint8 else 16)
    return len(files)


def generate_multiscale(
    folder: Path,
    output: Path,
    *,
    scales: Sequence[float] = DF2K_SCALES,
    shortest_edge: int | None = DF2K_SHORTEST_EDGE,
    num_workers: int = 2,
    progress: Progress | None = None,
) -> int:
    """Downscaled copies of every image with Lanczos, `<name>T0.png` and so on, as Real-ESRGAN does for DF2K.

    Args:
        folder: images, at any depth.
        output: where the copies go.
        scales: one copy for each factor.
        shortest_edge: one more copy whose shortest edge has this many pixels; None: none.
        num_workers: processes.
        progress: called with (images done, all).

    Returns:
        The number of copies there are now.
    """
    _refuse_same(folder, output)
    work = [
        (path, output / path.relative_to(folder).with_suffix(""), tuple(scales), shortest_edge)
        for path in list_images(folder)
    ]
    return sum(run_parallel(_downscale_image, work, num_workers=num_workers, progress=progress))


def _downscale_image(path: Path, target: Path, scales: tuple[float, ...], shortest_edge: int | None) -> int:
    info = probe_image(path)
    sizes = [(int(info.width * s), int(info.height * s)) for s in scales]
    if shortest_edge is not None:
        short = min(info.width, info.height)
        sizes.append(tuple(int(shortest_edge * (edge / short)) for edge in (info.width, info.height)))  # type: ignore
    files = [target.with_name(f"{target.name}T{i}.png") for i in range(len(sizes))]
    if not all(f.exists() for f in files):
        image = read_image(path)
        for size, file in zip(sizes, files, strict=True):
            if not file.exists():
                save_image(file, _lanczos(image, size))
    return len(files)


def _lanczos(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (width, height) with Pillow's Lanczos filter, which widens with the factor (OpenCV's does not)."""
    from PIL import Image

    wanted = (max(1, size[0]), max(1, size[1]))
    return np.asarray(Image.fromarray(to_uint8(image)).resize(wanted, Image.Resampling.LANCZOS))


def downscale_bicubic(
    folder: Path, output: Path, *, factor: int, num_workers: int = 2, progress: Progress | None = None
) -> int:
    """Copies of every image at `1 / factor` by MATLAB's bicubic, of the part whose edges are multiples of `factor`.

    Args:
        folder: images, at any depth.
        output: where the copies go, under the same names.
        factor: by which they get smaller.
        num_workers: processes.
        progress: called with (images done, all).

    Returns:
        The number of copies there are now.
    """
    _refuse_same(folder, output)
    work = [(path, output / path.relative_to(folder).with_suffix(".png"), factor) for path in list_images(folder)]
    return len(run_parallel(_bicubic_image, work, num_workers=num_workers, progress=progress))


def _bicubic_image(path: Path, target: Path, factor: int) -> None:
    if not target.exists():
        image = to_tensor(read_image(path))
        height, width = (n // factor * factor for n in image.shape[1:])
        save_image(target, imresize(image[:, :height, :width], 1 / factor))


def link_together(*folders_and_output: Path, num_workers: int = 1, progress: Progress | None = None) -> int:
    """Make the last folder one of links to the others; readers search it at any depth.

    Returns:
        The number of images below it.
    """
    *folders, output = folders_and_output
    output.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        link = output / folder.name
        link.unlink(missing_ok=True)
        link.symlink_to(folder.resolve(), target_is_directory=True)
    return len(list_images(output))


def write_meta_info(folders: Sequence[Path], root: Path, output: Path, *, check: bool = False) -> int:
    """List images as `path inside root (h,w,c)`, one a line.

    Args:
        folders: what to list.
        root: paths are written relative to it; the later `dataroot_gt`.
        output: the text file.
        check: decode every image and leave out those that cannot be read.

    Returns:
        The number of images listed.
    """
    lines = []
    for path in (p for folder in folders for p in list_images(folder)):
        try:
            info = probe_image(path)
            if check:
                read_image(path)
        except DataError:
            if check:
                continue
            raise
        lines.append(f"{_relative(path, root)} ({info.height},{info.width},{info.channels})\n")
    if not lines:
        raise DataError("no image could be read", place=str(folders[0]))
    write_atomic(output, lambda file: file.write("".join(lines).encode()))
    return len(lines)


def write_meta_info_pairs(
    gt_folders: Sequence[Path], lq_folders: Sequence[Path], roots: tuple[Path, Path], output: Path
) -> int:
    """List pairs as `gt, lq`; partners are the images at the same place of the sorted folders, as in Real-ESRGAN.

    Args:
        gt_folders, lq_folders: folders that belong together, in the same order.
        roots: paths are written relative to these (GT, LQ).
        output: the text file.

    Returns:
        The number of pairs.
    """
    if len(gt_folders) != len(lq_folders):
        raise ConfigError(f"{len(gt_folders)} GT folders but {len(lq_folders)} LQ folders")
    lines = []
    for gt_folder, lq_folder in zip(gt_folders, lq_folders, strict=True):
        gt, lq = FileSource.from_folders([gt_folder]), FileSource.from_folders([lq_folder])
        if len(gt) != len(lq):
            raise DataError(f"{len(gt)} images but {len(lq)} in {lq_folder}", place=str(gt_folder))
        for i in range(len(gt)):
            lines.append(f"{_relative(Path(gt.place(i)), roots[0])}, {_relative(Path(lq.place(i)), roots[1])}\n")
    write_atomic(output, lambda file: file.write("".join(lines).encode()))
    return len(lines)


def run_parallel(
    work: Callable[..., T], items: Iterable[tuple[object, ...]], *, num_workers: int, progress: Progress | None = None
) -> list[T]:
    """`work(*item)` for every item, in processes where `num_workers` > 1; results in the items' order."""
    items = list(items)
    results: list[T] = []
    for result in iter_parallel(work, items, num_workers=num_workers):
        results.append(result)
        if progress is not None:
            progress(len(results), len(items))
    return results


def iter_parallel(work: Callable[..., T], items: Sequence[tuple[object, ...]], *, num_workers: int) -> Iterator[T]:
    """Like `run_parallel`, each result as soon as it and all before it are there."""
    if num_workers <= 1 or len(items) <= 1:
        for item in items:
            yield work(*item)
        return
    context = get_context("spawn" if os.name == "nt" else "fork")
    with ProcessPoolExecutor(min(num_workers, len(items)), context, initializer=_one_thread) as pool:
        try:
            yield from pool.map(work, *zip(*items, strict=True), chunksize=1)
        except BrokenProcessPool:
            remedy = "often memory ran out: use fewer workers; finished files are kept"
            raise UserError("a worker process died", remedy=remedy) from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _one_thread() -> None:
    import torch

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _relative(path: Path, root: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        remedy = f"move it below {root}, or name another root"
        raise DataError("is not inside the root", place=str(path), remedy=remedy) from None


def _refuse_same(folder: Path, output: Path) -> None:
    if output.resolve() == folder.resolve() or folder.resolve() in output.resolve().parents:
        raise ConfigError(f"the output {output} lies in the input folder", remedy="choose another output folder")

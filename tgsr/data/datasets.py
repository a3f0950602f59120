"""The data sets an option file can name: ground truth that is degraded on the fly, real pairs, and LQ images alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tgsr.config.spec import PositiveInt
from tgsr.data.augment import CropDraw, draw_crop, pad_to, turn
from tgsr.data.backends import (
    ImageSource,
    IOBackend,
    JoinedSource,
    joined_names,
    open_source,
    read_meta_info,
    stems,
)
from tgsr.data.base import ImageDataset, Sample
from tgsr.data.batch import Batch
from tgsr.data.plan import SamplePlan
from tgsr.degradations.params import DegradationParams
from tgsr.degradations.usm import sharpen_hwc
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.image_io import to_tensor, to_uint8
from tgsr.utils.registry import Registry

DATASETS = Registry("dataset", package="tgsr.data")

_LQ_CACHE_BYTES = 256 * 2**20


@DATASETS.register()
class GTDataset(ImageDataset):
    """Ground-truth images; LQ images are made by the tasks of the run.

    In training a sample is a crop of `degrade_size`, degraded, from which `gt_size` is cut (Real-ESRGAN: 400 and 256);
    smaller images are padded by reflection. In validation an image is taken whole and degraded with
    `Task.draw_fixed(name)`, the same in every run.

    Args:
        dataroot_gt: folder (searched at any depth), several folders, an `.lmdb` or a packed folder.
        scale: GT size over LQ size.
        tasks: tasks of the run; None where LQ images are never asked for.
        meta_info: text file with the names to use; None: all images.
        io_backend: `disk`, `lmdb` or `packed`.
        gt_size: edge of a training crop in GT pixels; not needed for validation.
        degrade_size: edge of the crop that is degraded before `gt_size` is cut; None: `gt_size` itself.
        use_hflip: mirror half of the samples.
        use_rot: also mirror top-bottom and transpose.
        task: in validation, degrade every image with the task of this name; None: with the whole space (where a program
            hands T tasks over: image `i` with task `i mod T`).
        val_crop: in validation, use the central square of this edge only.
        max_images: use the first so many images only.
        val_draws: in validation, take every image so many times, each with a draw of its own.
        prepare: make the set where the folder is absent: `demo` from photographs that scikit-image brings along.
    """

    def __init__(
        self,
        *,
        dataroot_gt: Path | list[Path],
        scale: int,
        tasks: TaskSet | None = None,
        meta_info: Path | None = None,
        io_backend: IOBackend = "disk",
        gt_size: int | None = None,
        degrade_size: int | None = None,
        use_hflip: bool = True,
        use_rot: bool = True,
        task: str | None = None,
        val_crop: int | None = None,
        max_images: int | None = None,
        val_draws: PositiveInt = 1,
        prepare: Literal["demo"] | None = None,
    ) -> None:
        if prepare is not None:
            from tgsr.data.prepare import prepare_missing

            prepare_missing(prepare, dataroot_gt)
        names = None if meta_info is None else [e.gt for e in read_meta_info(meta_info)]
        source = open_source(dataroot_gt, io_backend=io_backend, names=names)
        super().__init__(source, scale=scale, tasks=tasks, val_crop=val_crop, max_images=max_images)
        if val_draws > 1:
            names = self._names
            self.source = self.source.subset([i for i in range(len(names)) for _ in range(val_draws)])
            self._names = [f"{name}_draw{k}" for name in names for k in range(val_draws)]
        self.gt_size, self.degrade_size = gt_size, degrade_size or gt_size
        _check_multiple("gt_size", gt_size, scale)
        _check_multiple("degrade_size", degrade_size, scale)
        if degrade_size is not None and (gt_size is None or degrade_size < gt_size):
            raise ConfigError(f"degrade_size {degrade_size} must be at least gt_size {gt_size}")
        self.use_hflip, self.use_rot = use_hflip, use_rot
        self._val_task = None if task is None or tasks is None else tasks[tasks.index(task)]
        self._lq_cache: dict[tuple[str, str], np.ndarray] = {}
        self._lq_cache_bytes = 0

    def __getitem__(self, plan: SamplePlan) -> Sample:
        if self.gt_size is None or self.degrade_size is None:
            raise ConfigError("GTDataset needs gt_size for training")
        settings = self.settings
        draw = draw_crop(settings.seed, "crop", plan.sample, use_hflip=self.use_hflip, use_rot=self.use_rot)
        gt = turn(self._crop(plan.image, draw), draw)
        sample = Sample(gt=gt, lq=None, plan=plan, path=self.place(plan.image))
        if self.tasks is None:
            remedy = "add the section degradation, or use PairedDataset"
            raise ConfigError("GTDataset needs tasks for training", remedy=remedy)
        sample.params = self.tasks[plan.task].draw(settings.seed, "degradation", plan.sample)
        sample.crop = self._inner_corner(plan.sample)
        return sample if settings.degrade == "device" else self._degrade(sample)

    def _crop(self, image: int, draw: CropDraw) -> np.ndarray:
        """The crop of `degrade_size` before it is turned."""
        size = self.degrade_size
        assert size is not None
        if self.source.reads_parts:
            height, width = self.source.size(image)
            self._check_crop(image, height, width)
            top, left = draw.place(max(0, height - size), max(0, width - size))
            part = self.source.read_crop(image, top, left, min(size, height), min(size, width))
            return pad_to(part, size)
        whole = self.source.read(image)
        self._check_crop(image, *whole.shape[:2])
        whole = pad_to(whole, size)
        top, left = draw.place(whole.shape[0] - size, whole.shape[1] - size)
        return whole[top : top + size, left : left + size]

    def _check_crop(self, image: int, height: int, width: int) -> None:
        """DataError for an image that is smaller than a crop, as one that was replaced after the preflight."""
        if problem := self.size_problem({"GT": (height, width)}):
            raise DataError(problem, place=self.place(image), remedy="put the whole image back, or remove it")

    def _inner_corner(self, sample: int) -> tuple[int, int]:
        """Top and left, in LQ pixels, of the training crop inside the degraded one."""
        assert self.gt_size is not None
        assert self.degrade_size is not None
        free = (self.degrade_size - self.gt_size) // self.scale
        return draw_crop(self.settings.seed, "crop2", sample).place(free, free) if free else (0, 0)

    def size_problem(self, sizes: Mapping[str, tuple[int, int]]) -> str | None:
        height, width = sizes["GT"]
        if self.gt_size is not None and min(height, width) < self.gt_size:
            return f"it is {width}x{height}, smaller than the crop gt_size {self.gt_size}"
        return super().size_problem(sizes)

    def _degrade(self, sample: Sample) -> Sample:
        """Degrade in the worker and cut the training crop; same order of steps as `degrade_on_device`."""
        assert sample.gt is not None
        assert sample.params is not None
        assert sample.crop is not None
        assert self.gt_size is not None
        sharpened = sharpen_hwc(_as_float(sample.gt)) if self.settings.sharpen_input else None
        source = sample.gt if sharpened is None else sharpened
        lq = self.pipeline_of(sample.plan.task).apply(to_tensor(source)[None], sample.params)
        (top, left), size, scale = sample.crop, self.gt_size, self.scale
        small = size // scale
        sample.lq = _as_uint8_if_exact(lq[0, :, top : top + small, left : left + small].permute(1, 2, 0).numpy())
        window = (slice(top * scale, top * scale + size), slice(left * scale, left * scale + size))
        sample.gt, sample.crop = sample.gt[window], None
        if self.settings.want_usm:
            sample.gt_usm = sharpen_hwc(_as_float(sample.gt)) if sharpened is None else sharpened[window]
        return sample

    def _crop_size(self, degraded: int) -> int:
        return self.gt_size or degraded

    def val_task(self, index: int) -> Task:
        """The task that degrades a validation image when none is asked for."""
        if self.tasks is None:
            raise ConfigError(
                "there is no degradation to make LQ images with",
                place=self.place(index),
                remedy="add the section degradation: {space: ...}, or use PairedDataset",
            )
        return self._val_task or self.tasks[index % len(self.tasks)]

    def val_sample(self, index: int, task: Task | None = None) -> Batch:
        task = task or self.val_task(index)
        gt_image = _val_window(self.source.read(index), self.scale, self.val_crop)
        if min(gt_image.shape[:2]) < self.scale:
            raise DataError(f"the image is smaller than the scale {self.scale}", place=self.place(index))
        gt = to_tensor(gt_image)[None]
        params = task.draw_fixed(self.name(index))
        return Batch(
            gt=gt,
            lq=self._val_lq(index, task, gt, params),
            task_ids=torch.tensor([self._task_index(task)]),
            sample_ids=torch.tensor([index]),
            params=params,
            paths=[self.place(index)],
        )

    def _task_index(self, task: Task) -> int:
        return self.tasks.index(task.name) if self.tasks is not None and task in self.tasks else 0

    def _val_lq(self, index: int, task: Task, gt: torch.Tensor, params: DegradationParams) -> torch.Tensor:
        """LQ of a validation image; kept in memory up to a limit, since every validation asks for the same."""
        key = (self.name(index), task.id)
        if key in self._lq_cache:
            return to_tensor(self._lq_cache[key])[None]
        lq = task.space.pipeline.apply(gt, params)
        small = _as_uint8_if_exact(lq[0].permute(1, 2, 0).numpy())
        if small.dtype == np.uint8 and self._lq_cache_bytes + small.nbytes <= _LQ_CACHE_BYTES:
            self._lq_cache[key] = small
            self._lq_cache_bytes += small.nbytes
            return to_tensor(small)[None]
        return lq


@DATASETS.register()
class PairedDataset(ImageDataset):
    """Ground truth and low quality in pairs of files (RealSR, DRealSR, CameraSR, NTIRE 2020, AIM 2019, benchmarks).

    Partners are found by name: LQ has the stem `filename_tmpl` filled with the GT's, in the same sub-folder, with any
    image extension. `filename_tmpl_gt` chooses GT files where both kinds share a folder: `"{}_HR"` with
    `filename_tmpl: "{}_LR4"` is RealSR's layout. A meta-info file with lines `gt, lq` names both itself.

    Args:
        dataroot_gt: folder of ground truth, an `.lmdb` or a packed folder; or a list of them.
        dataroot_lq: the same for LQ; of two lists, the entries at the same place belong together.
        scale: GT size over LQ size.
        tasks: not used; every sample has task 0.
        meta_info: text file with `gt, lq` pairs or GT names; None: all images.
        io_backend: `disk`, `lmdb` or `packed`.
        filename_tmpl: stem of the LQ file, `{}` stands for the GT's stem.
        filename_tmpl_gt: stem of GT files, `{}` stands for what both share.
        gt_size: edge of a training crop in GT pixels; not needed for validation.
        use_hflip: mirror half of the samples.
        use_rot: also mirror top-bottom and transpose.
        val_crop: in validation, use the central square of this edge (GT pixels) only.
        max_images: use the first so many images only.
    """

    uses_tasks = False

    def __init__(
        self,
        *,
        dataroot_gt: Path | list[Path],
        dataroot_lq: Path | list[Path],
        scale: int,
        tasks: TaskSet | None = None,
        meta_info: Path | None = None,
        io_backend: IOBackend = "disk",
        filename_tmpl: str = "{}",
        filename_tmpl_gt: str = "{}",
        gt_size: int | None = None,
        use_hflip: bool = True,
        use_rot: bool = True,
        val_crop: int | None = None,
        max_images: int | None = None,
    ) -> None:
        gt, self.lq_source = _open_pairs(
            dataroot_gt, dataroot_lq, meta_info, io_backend, filename_tmpl_gt, filename_tmpl
        )
        super().__init__(gt, scale=scale, tasks=tasks, val_crop=val_crop, max_images=max_images)
        _check_multiple("gt_size", gt_size, scale)
        self.lq_source = self.lq_source.subset(range(len(self.source)))
        self.gt_size, self.use_hflip, self.use_rot = gt_size, use_hflip, use_rot

    def sources(self) -> dict[str, ImageSource]:
        return {"GT": self.source, "LQ": self.lq_source}

    def size_problem(self, sizes: Mapping[str, tuple[int, int]]) -> str | None:
        (height, width), (low_height, low_width) = sizes["GT"], sizes["LQ"]
        scale, exact = self.scale, self.gt_size is not None
        whole = (height // scale, width // scale) == (low_height, low_width)
        if not whole or (exact and (height % scale or width % scale)):
            ratio = f"{height / low_height:.4g} x {width / low_width:.4g}"
            return f"GT is {width}x{height} and LQ {low_width}x{low_height}: the ratio is {ratio}, not {scale}"
        if self.gt_size is not None and min(height, width) < self.gt_size:
            return f"it is {width}x{height}, smaller than the crop gt_size {self.gt_size}"
        return None

    def keep(self, indices: Sequence[int]) -> None:
        super().keep(indices)
        self.lq_source = self.lq_source.subset(indices)

    def __getitem__(self, plan: SamplePlan) -> Sample:
        if self.gt_size is None:
            raise ConfigError("PairedDataset needs gt_size for training")
        draw = draw_crop(self.settings.seed, "crop", plan.sample, use_hflip=self.use_hflip, use_rot=self.use_rot)
        size, scale, image = self.gt_size, self.scale, plan.image
        small = size // scale
        height, width = self.lq_source.size(image)
        if min(height, width) < small:
            problem = f"LQ is {width}x{height}, smaller than the crop of {small}"
            raise DataError(problem, place=self.lq_source.place(image))
        top, left = draw.place(height - small, width - small)
        lq = self.lq_source.read_crop(image, top, left, small, small)
        gt = self.source.read_crop(image, top * scale, left * scale, size, size)
        if gt.shape[:2] != (size, size):
            raise DataError(
                f"GT is not {scale} times its LQ of {width}x{height}", place=self.place(image), remedy="check the scale"
            )
        sample = Sample(gt=turn(gt, draw), lq=turn(lq, draw), plan=plan, path=self.place(image))
        if self.settings.want_usm:
            sample.gt_usm = sharpen_hwc(_as_float(turn(gt, draw)))
        return sample

    def val_sample(self, index: int, task: Task | None = None) -> Batch:
        gt, lq = self.source.read(index), self.lq_source.read(index)
        scale = self.scale
        if gt.shape[0] // scale != lq.shape[0] or gt.shape[1] // scale != lq.shape[1]:
            raise DataError(
                f"GT is {gt.shape[1]}x{gt.shape[0]} but LQ {lq.shape[1]}x{lq.shape[0]}, not 1/{scale} of it",
                place=f"{self.place(index)} and {self.lq_source.place(index)}",
                remedy="check the scale and the pairing",
            )
        lq = _val_window(lq, 1, self.val_crop and self.val_crop // scale)
        gt = _val_window(gt[: gt.shape[0] // scale * scale, : gt.shape[1] // scale * scale], scale, self.val_crop)
        return Batch(
            gt=to_tensor(gt)[None],
            lq=to_tensor(lq)[None],
            task_ids=torch.zeros(1, dtype=torch.int64),
            sample_ids=torch.tensor([index]),
            paths=[self.place(index)],
        )


@DATASETS.register()
class LQDataset(ImageDataset):
    """Low-quality images without ground truth, for test runs.

    Args:
        dataroot_lq: folder (searched at any depth), several folders, an `.lmdb` or a packed folder.
        scale: how much larger the results will be.
        tasks: not used.
        meta_info: text file with the names to use; None: all images.
        io_backend: `disk`, `lmdb` or `packed`.
        val_crop: use the central square of this edge (in pixels of the result) only.
        max_images: use the first so many images only.
    """

    has_gt = False
    uses_tasks = False

    def __init__(
        self,
        *,
        dataroot_lq: Path | list[Path],
        scale: int,
        tasks: TaskSet | None = None,
        meta_info: Path | None = None,
        io_backend: IOBackend = "disk",
        val_crop: int | None = None,
        max_images: int | None = None,
    ) -> None:
        names = None if meta_info is None else [e.lq or e.gt for e in read_meta_info(meta_info)]
        source = open_source(dataroot_lq, io_backend=io_backend, names=names)
        super().__init__(source, scale=scale, tasks=tasks, val_crop=val_crop, max_images=max_images)

    def __getitem__(self, plan: SamplePlan) -> Sample:
        raise ConfigError("LQDataset has no ground truth to train on", remedy="use GTDataset or PairedDataset")

    def val_sample(self, index: int, task: Task | None = None) -> Batch:
        lq = _val_window(self.source.read(index), 1, self.val_crop and self.val_crop // self.scale)
        return Batch(
            gt=None,
            lq=to_tensor(lq)[None],
            task_ids=torch.zeros(1, dtype=torch.int64),
            sample_ids=torch.tensor([index]),
            paths=[self.place(index)],
        )


def _open_pairs(
    root_gt: Path | Sequence[Path],
    root_lq: Path | Sequence[Path],
    meta_info: Path | None,
    io_backend: IOBackend,
    tmpl_gt: str,
    tmpl_lq: str,
) -> tuple[ImageSource, ImageSource]:
    """GT and LQ sources of equal length, partners at equal places; DataError with the first names without one."""
    roots_gt, roots_lq = (list(r) if isinstance(r, Sequence) else [r] for r in (root_gt, root_lq))
    if len(roots_gt) != len(roots_lq) or not roots_gt:
        problem = f"dataroot_gt names {len(roots_gt)} folders and dataroot_lq {len(roots_lq)}"
        raise ConfigError(problem, remedy="name the LQ folder of each GT folder, in the same order")
    if len(roots_gt) == 1:
        return _open_pair(roots_gt[0], roots_lq[0], meta_info, io_backend, tmpl_gt, tmpl_lq)
    if meta_info is not None:
        names = read_meta_info(meta_info)
        if io_backend == "disk" and all(e.lq for e in names):
            gt = open_source(roots_gt, names=[e.gt for e in names])
            return gt, open_source(roots_lq, names=[e.lq or "" for e in names])
        raise ConfigError("meta_info of several folders must name pairs 'gt, lq' of files", remedy="or name one folder")
    pairs = [
        _open_pair(gt, lq, None, io_backend, tmpl_gt, tmpl_lq) for gt, lq in zip(roots_gt, roots_lq, strict=True)
    ]
    names = joined_names(roots_gt, [gt.names for gt, _ in pairs])
    return JoinedSource([gt for gt, _ in pairs], names), JoinedSource([lq for _, lq in pairs], names)


def _open_pair(
    root_gt: Path, root_lq: Path, meta_info: Path | None, io_backend: IOBackend, tmpl_gt: str, tmpl_lq: str
) -> tuple[ImageSource, ImageSource]:
    """The sources of one folder of each."""
    for key, template in (("filename_tmpl_gt", tmpl_gt), ("filename_tmpl", tmpl_lq)):
        if template.count("{}") != 1:
            raise ConfigError(f"{key} is '{template}'", remedy="it must hold {} once, e.g. '{}x4'")
    entries = None if meta_info is None else read_meta_info(meta_info)
    if entries is not None and all(e.lq for e in entries):
        gt = open_source(root_gt, io_backend=io_backend, names=[e.gt for e in entries])
        return gt, open_source(root_lq, io_backend=io_backend, names=[e.lq or "" for e in entries])
    gt = open_source(root_gt, io_backend=io_backend, names=None if entries is None else [e.gt for e in entries])
    lq = open_source(root_lq, io_backend=io_backend)
    partner = {s: i for i, s in enumerate(stems(lq))}
    before, after = tmpl_gt.split("{}")
    chosen, missing = [], []
    rows = []
    for i, stem in enumerate(stems(gt)):
        folder, slash, file = stem.rpartition("/")
        if not (file.startswith(before) and file.endswith(after) and len(file) >= len(before) + len(after)):
            continue
        core = file[len(before) : len(file) - len(after)]
        wanted = f"{folder}{slash}{tmpl_lq.format(core)}"
        if wanted in partner:
            chosen.append(i)
            rows.append(partner[wanted])
        else:
            missing.append(wanted)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(missing) + len(chosen)} GT images lack an LQ partner: {', '.join(missing[:5])}",
            place=str(root_lq),
            remedy="check dataroot_lq and filename_tmpl, or list the pairs in meta_info",
        )
    if not chosen:
        raise DataError(f"no GT name fits filename_tmpl_gt '{tmpl_gt}'", place=str(root_gt))
    return gt.subset(chosen), lq.subset(rows)


def _check_multiple(key: str, value: int | None, scale: int) -> None:
    if value is not None and (value < scale or value % scale):
        raise ConfigError(f"{key} {value} must be a multiple of the scale {scale}")


def _val_window(image: np.ndarray, multiple: int, edge: int | None) -> np.ndarray:
    """Cut to a multiple at the bottom and right, or to the central square of `edge`, at a multiple too."""
    height, width = (n // multiple * multiple for n in image.shape[:2])
    if edge is None:
        return image[:height, :width]
    top, left = (max(0, n - edge) // 2 // multiple * multiple for n in (height, width))
    return image[top : min(height, top + edge), left : min(width, left + edge)]


def _as_float(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image


def _as_uint8_if_exact(image: np.ndarray) -> np.ndarray:
    """8-bit form of an image whose values are multiples of 1/255, which pipelines promise; else the image itself."""
    small = to_uint8(image)
    return small if np.abs(_as_float(small) - image).max() < 1e-6 else image

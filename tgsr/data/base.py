"""What all data sets share: the settings of a run, samples, collation, and degrading on a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from tgsr.data.backends import ImageSource, stems
from tgsr.data.batch import Batch, PendingDegradation
from tgsr.data.plan import SamplePlan
from tgsr.data.preflight import PreflightReport, preflight
from tgsr.degradations.base import Pipeline
from tgsr.degradations.params import DegradationParams
from tgsr.degradations.usm import sharpen
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.device import upload
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.files import to_json
from tgsr.utils.image_io import to_tensor


@dataclass(frozen=True)
class SampleSettings:
    """How a run makes its training samples; handed over with `ImageDataset.configure` before workers start.

    Attributes:
        seed: the run's seed; the root of crops, flips and degradations.
        degrade: `loader` makes the LQ image in the workers, `device` leaves it to `degrade_on_device`.
        sharpen_input: degrade the sharpened (USM) ground truth.
        want_usm: also hand over the sharpened ground truth (some loss asks for it).
    """

    seed: int = 0
    degrade: Literal["loader", "device"] = "loader"
    sharpen_input: bool = False
    want_usm: bool = False


@dataclass
class Sample:
    """One training sample on its way to `collate`. Images are `(H, W, 3)` uint8, or float32 in [0, 1]."""

    gt: np.ndarray | None
    lq: np.ndarray | None
    plan: SamplePlan
    path: str
    gt_usm: np.ndarray | None = None
    params: DegradationParams | None = None
    crop: tuple[int, int] | None = None


class ImageDataset(Dataset[Sample], ABC):
    """An indexed set of images: `dataset[plan]` for training, `val_sample` for validation.

    Attributes:
        scale: GT size over LQ size.
        tasks: the run's tasks; None for paired data.
        settings: see `configure`.
        has_gt: whether ground truth is there.
        uses_tasks: whether training samples depend on their task; False where LQ images are files, so that a run with
            several tasks is refused.
        is_luma: whether batches become luma before they reach a network, which has one channel; set by the engine.
    """

    has_gt = True
    uses_tasks = True
    is_luma = False

    def __init__(
        self, source: ImageSource, *, scale: int, tasks: TaskSet | None, val_crop: int | None, max_images: int | None
    ) -> None:
        super().__init__()
        if val_crop is not None and (val_crop < scale or val_crop % scale):
            raise ConfigError(f"val_crop {val_crop} must be a multiple of the scale {scale}")
        if max_images is not None and max_images < 1:
            raise ConfigError(f"max_images is {max_images}", remedy="leave it out for all images")
        self.source = source if max_images is None else source.subset(range(min(max_images, len(source))))
        self.scale, self.tasks, self.val_crop = scale, tasks, val_crop
        self.settings = SampleSettings()
        self._names = stems(self.source)
        self._pipelines: _Pipelines | None = None

    def __len__(self) -> int:
        return len(self.source)

    def configure(
        self,
        *,
        seed: int,
        degrade: Literal["loader", "device"] = "loader",
        sharpen_input: bool = False,
        want_usm: bool = False,
    ) -> None:
        """Set how training samples are made; call it before a loader is built. See `SampleSettings`."""
        self.settings = SampleSettings(seed, degrade, sharpen_input, want_usm)

    def name(self, index: int) -> str:
        """Name of an image without folder and extension (with them where two would be the same)."""
        return self._names[index]

    def place(self, index: int) -> str:
        """Path of an image for messages."""
        return self.source.place(index)

    def keep(self, indices: Sequence[int]) -> None:
        """Leave out all other images (what the preflight found wrong)."""
        if not indices:
            raise DataError("no image is left after leaving out the bad ones")
        self.source = self.source.subset(indices)
        self._names = stems(self.source)

    def sources(self) -> dict[str, ImageSource]:
        """The image collections by role, `GT` and `LQ`, all of this set's length."""
        return {"GT" if self.has_gt else "LQ": self.source}

    def size_problem(self, sizes: Mapping[str, tuple[int, int]]) -> str | None:
        """What is wrong with an image of these sizes (role -> height, width), or None."""
        height, width = sizes["GT" if self.has_gt else "LQ"]
        least = 1 if not self.has_gt else self.scale
        return f"it is {width}x{height}, smaller than the scale" if min(height, width) < least else None

    def result_size(self, index: int) -> tuple[int, int]:
        """Height and width of the restored image in validation, from the headers."""
        height, width = self.source.size(index)
        if self.has_gt:
            height, width = height // self.scale * self.scale, width // self.scale * self.scale
        else:
            height, width = height * self.scale, width * self.scale
        return (height, width) if self.val_crop is None else (min(height, self.val_crop), min(width, self.val_crop))

    def preflight(self, *, skip_bad: bool = False) -> PreflightReport:
        """Open all images once; see `tgsr.data.preflight.preflight`."""
        return preflight(self, skip_bad=skip_bad)

    @abstractmethod
    def __getitem__(self, plan: SamplePlan) -> Sample:
        """The training sample of a plan: a function of the plan, the settings and the files."""

    @abstractmethod
    def val_sample(self, index: int, task: Task | None = None) -> Batch:
        """A whole image as a batch of one in float32, deterministic.

        Args:
            index: of the image.
            task: what to degrade it with where LQ images are made; None: the set's own choice.
        """

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples of equal size to a batch; images stay uint8 where all are (see `Batch.to`)."""
        has_params = samples[0].params is not None
        pending = None
        task_ids = np.array([s.plan.task for s in samples], dtype=np.int64)
        if samples[0].crop is not None:
            pending = PendingDegradation(task_ids, np.array([s.crop for s in samples], dtype=np.int64))
        return Batch(
            gt=_stack([s.gt for s in samples]),
            lq=_stack([s.lq for s in samples]),
            gt_usm=_stack([s.gt_usm for s in samples]),
            task_ids=torch.from_numpy(task_ids),
            sample_ids=torch.tensor([s.plan.sample for s in samples], dtype=torch.int64),
            params=DegradationParams.cat([s.params for s in samples]) if has_params else None,  # type: ignore[misc]
            paths=[s.path for s in samples],
            pending=pending,
        )

    def pipeline_of(self, task: int) -> Pipeline:
        """The pipeline of a task; one object for all tasks that share it."""
        return self._pipeline_table().of(task)

    def _pipeline_table(self) -> _Pipelines:
        if self._pipelines is None:
            if self.tasks is None:
                raise ConfigError(
                    "this set has no LQ images and the run makes none",
                    remedy="add the section degradation: {space: ...}, or use PairedDataset",
                )
            self._pipelines = _Pipelines(self.tasks)
        return self._pipelines

    def degrade_on_device(self, batch: Batch, generator: torch.Generator | None = None) -> Batch:
        """Make LQ (and sharpened GT) of a batch whose `pending` is set, then cut the training crops.

        With `generator=None` the result equals what the loader's workers make, up to the two back ends of a pipeline;
        a generator on the batch's device draws all noise of the batch from it, which is faster on a GPU.

        Args:
            batch: from a loader with `degrade='device'`, moved to the device.
            generator: see `Pipeline.apply`.
        """
        if batch.pending is None or batch.gt is None or batch.params is None:
            return batch
        source = sharpen(batch.gt) if self.settings.sharpen_input else batch.gt
        lq = self._pipeline_table().apply(source, batch.params, batch.pending.task_ids, generator)
        size = self._crop_size(lq.shape[-1] * self.scale)
        crops = batch.pending.crops
        gt = cut_squares(batch.gt, crops * self.scale, size)
        gt_usm = None
        if self.settings.want_usm:
            gt_usm = cut_squares(source, crops * self.scale, size) if self.settings.sharpen_input else sharpen(gt)
        return replace(batch, gt=gt, lq=cut_squares(lq, crops, size // self.scale), gt_usm=gt_usm, pending=None)

    def _crop_size(self, degraded: int) -> int:
        """Edge of the training crop in GT pixels, cut from one of `degraded`."""
        return degraded


class _Pipelines:
    """The pipelines of a task set, equal ones merged."""

    def __init__(self, tasks: TaskSet) -> None:
        by_text: dict[str, int] = {}
        self._unique: list[Pipeline] = []
        self._of_task = np.empty(len(tasks), dtype=np.int64)
        for i, task in enumerate(tasks):
            pipeline = task.space.pipeline
            text = to_json(pipeline.to_json())
            if text not in by_text:
                by_text[text] = len(self._unique)
                self._unique.append(pipeline)
            self._of_task[i] = by_text[text]

    def of(self, task: int) -> Pipeline:
        return self._unique[self._of_task[task]]

    def apply(
        self, gt: torch.Tensor, params: DegradationParams, task_ids: np.ndarray, generator: torch.Generator | None
    ) -> torch.Tensor:
        which = self._of_task[task_ids]
        used = np.unique(which)
        if len(used) == 1:
            return self._unique[used[0]].apply(gt, params, generator)
        scale = self._unique[used[0]].scale
        lq = gt.new_empty((len(gt), 3, gt.shape[2] // scale, gt.shape[3] // scale))
        for u in used:
            rows = np.flatnonzero(which == u)
            index = upload({"rows": rows}, gt.device)["rows"]
            lq[index] = self._unique[u].apply(gt[index], params.take(rows), generator)
        return lq


def cut_squares(images: torch.Tensor, corners: np.ndarray, size: int) -> torch.Tensor:
    """A square of `size` from each image, at its own corner `(B, 2)` (top, left; on the host)."""
    if images.shape[-1] == size:
        return images
    memory = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    parts = [
        image[:, top : top + size, left : left + size]
        for image, (top, left) in zip(images, corners.tolist(), strict=True)
    ]
    return torch.stack(parts).contiguous(memory_format=memory)


def _stack(images: Sequence[np.ndarray | None]) -> torch.Tensor | None:
    if any(i is None for i in images):
        return None
    if any(i.dtype != np.uint8 for i in images):  # type: ignore[union-attr]
        return torch.stack([to_tensor(i) for i in images])  # type: ignore[arg-type]
    stacked = np.stack([i.transpose(2, 0, 1) for i in images])  # type: ignore[union-attr]
    return torch.from_numpy(stacked)

"""Strips: the same images as several networks restore them, beside each other; figures that show images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt
from tgsr.data.batch import Batch
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.engine.validation import Restore
from tgsr.metrics.psnr_ssim import PSNR
from tgsr.report.builder import Report
from tgsr.report.strips import Panel, choose_crop, make_strip
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.measure import Subject, make_restorer, open_set, restored_files
from tgsr.study.paper import set_problems
from tgsr.study.rows import Rows, Sets, expand, subjects_of, with_sets
from tgsr.study.stage import Stage
from tgsr.utils.errors import ConfigError
from tgsr.utils.image_io import read_image, to_tensor

logger = logging.getLogger("tgsr")


@dataclass(frozen=True, kw_only=True)
class StripsFile(Artefact):
    """A `strips.json`: what strips there are.

    Attributes:
        strips: of each: `set`, `image`, `file` below the folder of the artefact, `rows`.
        not_shown: rows whose files were not there.
    """

    schema: ClassVar[str] = "tgsr.strips"
    made_by: ClassVar[str] = "Strips"

    strips: Sequence[Mapping[str, Any]]
    not_shown: Sequence[str] = ()


@RUNNERS.register()
class Strips(Stage):
    """Images of test sets as every row restores them, LQ first and ground truth last -> `strips.json` and a report.

    Whole images above, below them the part in which the last row differs most from the others, with its PSNR. A row
    whose files are not there is left out and named on the page.

    Args:
        rows: as of `PaperTable`; the last one is the network that the figure is about.
        sets: as of `PaperTable`. None: all of `datasets.val`.
        images: set -> names of its images. None, or a set that is not named: the first `num_images`.
        num_images: of each set.
        crop_size: edge of the enlarged part in pixels of the restored image.
    """

    in_results = True
    product = "strips.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"images": None, "num_images": 1, "crop_size": 32}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        rows: Rows,
        sets: Sets | None = None,
        images: dict[str, list[str]] | None = None,
        num_images: PositiveInt = 3,
        crop_size: PositiveInt = 96,
    ) -> None:
        super().__init__(options=options, context=context)
        self.runs = expand(rows, f"{options.name}: run.rows", options.datasets.val)
        self.sets, self.images, self.num_images, self.crop_size = sets, dict(images or {}), num_images, crop_size

    def missing_files(self, made: Sequence[Path] = (), later: Sequence[Path] = ()) -> list[ConfigError]:
        """Test sets only: a row whose files are not there is said on the page."""
        return set_problems(self.options, self.sets, made, later)

    def units(self) -> tuple[float, str]:
        return self.num_images, "images"

    def work(self) -> None:
        subjects, missing = self._subjects()
        if missing and self.context.is_main:
            logger.warning("%s: not shown, since the files are not there: %s", self.options.name, ", ".join(missing))
        options, names = with_sets(self.options, self.sets)
        restorers: dict[str, Restore] = {}
        made = []
        todo = [
            (name, dataset, i)
            for name in names
            for dataset in [open_set(options, name)]
            for i in self._of(name, dataset)
        ]
        for name, dataset, i in todo[self.context.rank :: self.context.world_size]:
            if self.context.stop_requested:
                break
            made.append(self._strip(name, dataset, i, subjects, restorers, options))
        self.stop_if_asked()
        strips = self.context.gather(made)
        if self.context.is_main:
            order = {(name, d.name(i)): k for k, (name, d, i) in enumerate(todo)}
            strips = sorted(strips, key=lambda s: order[s["set"], s["image"]])
            StripsFile(strips=strips, not_shown=missing, **stamp(self.options)).save(self.results / self.product)

    def _subjects(self) -> tuple[list[Subject], list[str]]:
        """One for each row, and the rows without files; as rank 0 sees the disk, on all ranks."""
        found: tuple[list[Subject], list[str]] = ([], [])
        for label, run in self.runs.items() if self.context.is_main else ():
            there = subjects_of(label, run) if run.results is None else None
            found[0].extend(there or [])
            found[1].extend([] if there else [label])
        return self.context.from_main(found)

    def _of(self, name: str, dataset: Any) -> list[int]:
        """Indices of the images of a set that are shown."""
        wanted = self.images.get(name)
        if wanted is None:
            return list(range(min(self.num_images, len(dataset))))
        known = {dataset.name(i): i for i in range(len(dataset))}
        unknown = [image for image in wanted if image not in known]
        if unknown:
            place = f"{self.options.name}: run.images.{name}"
            raise ConfigError(f"the set has no image '{unknown[0]}'", place=place)
        return [known[image] for image in wanted]

    def _strip(
        self,
        name: str,
        dataset: Any,
        number: int,
        subjects: Sequence[Subject],
        restorers: dict[str, Restore],
        options: Options,
    ) -> dict[str, Any]:
        sample: Batch = dataset.val_sample(number)
        assert sample.lq is not None
        image, shown = dataset.name(number), {}
        for subject in subjects:
            if subject.on is None or name in subject.on:
                restored = self._restored(subject, name, image, sample.lq, restorers, options)
                if restored is not None:
                    shown[subject.label] = restored
        path = self.results / "strips" / name / f"{Path(image).name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw(sample.lq[0], shown, None if sample.gt is None else sample.gt[0], self.crop_size))
        file = path.relative_to(self.results).as_posix()
        return {"set": name, "image": image, "file": file, "rows": list(shown)}

    def _restored(
        self,
        subject: Subject,
        name: str,
        image: str,
        lq: torch.Tensor,
        restorers: dict[str, Restore],
        options: Options,
    ) -> torch.Tensor | None:
        """(3, H, W); None where a folder of images has none of the set."""
        if subject.images is not None:
            files = restored_files(subject.images, name, [image])
            return None if files is None else to_tensor(read_image(files[image]))
        key = f"{subject.label} {subject.weights}"
        if key not in restorers:
            restorers[key] = make_restorer(options, subject, self.context)
        return restorers[key](lq)[0].float().clamp(0, 1).cpu()

    def page(self) -> Report:
        content = StripsFile.load(self.results / self.product)
        report = Report(self.options.name, subtitle="LQ, what each network makes of it, ground truth")
        for name in dict.fromkeys(strip["set"] for strip in content.strips):
            report.section(name)
            for strip in content.strips:
                if strip["set"] == name:
                    png = (self.results / strip["file"]).read_bytes()
                    report.add_strip(f"{name}_{strip['image']}", png, caption=f"{strip['image']} of {name}")
        if content.not_shown:
            report.add_text(f"Not shown, since the files are not there: {', '.join(content.not_shown)}.")
        return report


def draw(lq: torch.Tensor, restored: Mapping[str, torch.Tensor], gt: torch.Tensor | None, crop_size: int) -> bytes:
    """A strip as PNG, enlarged where the last restored image differs most from the mean of the others.

    Args:
        lq: (3, h, w).
        restored: label -> (3, H, W), H a multiple of h.
        gt: (3, H, W); None: there is none.
        crop_size: edge of the enlarged part, at most the image's.
    """
    images = list(restored.values())
    ours = images[-1] if images else lq
    others = torch.stack(images[:-1]).mean(0) if len(images) > 1 else gt if gt is not None else torch.zeros_like(ours)
    size = min(crop_size, *ours.shape[1:])
    top, left = choose_crop(ours, others, size=size, multiple=max(1, ours.shape[1] // lq.shape[1]))
    panels = [Panel("LQ", lq)]
    for label, image in restored.items():
        note = "" if gt is None or gt.shape != image.shape else f"{PSNR(color='y')(image, gt):.2f} dB"
        panels.append(Panel(label, image, note))
    panels += [] if gt is None else [Panel("GT", gt)]
    return make_strip(panels, crop=(top, left, size))

"""What the alignment of equation 8 does to an image, as printed and with a detached anchor: descent on its pixels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt, Range
from tgsr.engine import build
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.engine.validation import bicubic
from tgsr.losses.base import LossContext
from tgsr.losses.pixel import l1_loss
from tgsr.methods.cria_cl.criteria import CriterionSpec, criterion
from tgsr.methods.cria_cl.losses import AlignmentLoss
from tgsr.methods.cria_cl.masks import anchor_pull
from tgsr.report.builder import Report
from tgsr.report.tables import Column, Row, Table, aggregate
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.stage import Stage
from tgsr.utils.errors import ConfigError

logger = logging.getLogger("tgsr")
FORMS: dict[str, bool | None] = {"pixel loss alone": None, "anchor detached": True, "as printed": False}
"""Form -> `detach_anchor`; None: no alignment."""


def descend(
    image: Tensor, target: Tensor, loss: AlignmentLoss | None, *, pixel_weight: float, num_steps: int, lr: float
) -> Tensor:
    """The image after Adam steps on pixel_weight * L1 + the alignment, where S = 1 (the result is I_align).

    Args:
        image, target: `(B, 3, H, W)`.
        loss: with its weight; None: the pixel loss alone.
    """
    image = image.clone().requires_grad_()
    optimiser = torch.optim.Adam([image], lr=lr)
    task_ids = torch.zeros(len(image), dtype=torch.int64)
    for step in range(num_steps):
        optimiser.zero_grad()
        total = pixel_weight * l1_loss(image, target)
        if loss is not None:
            total = total + loss(LossContext({"align": image}, {"gt": target}, image, task_ids, None, step))
        total.sum().backward()
        optimiser.step()
    return image.detach()


@dataclass(frozen=True, kw_only=True)
class Hazard(Artefact):
    """A `hazard.json`: form -> number -> its value of each image."""

    schema: ClassVar[str] = "tgsr.cria_hazard"
    made_by: ClassVar[str] = "CriaHazard"

    num_images: int
    values: Mapping[str, Mapping[str, list[float]]]


@RUNNERS.register()
class CriaHazard(Stage):
    """Descent from the bicubic enlargement by pixel loss and alignment -> `hazard.json` and a report.

    Nothing is learned: pixels themselves follow the gradient, so what is seen is the loss and not a network.

    Args:
        val: validation set, with `val_crop` so that its images are of one size; None: the first one.
        positives: criteria that need no discriminator; None: ssim.
        pixel_weight, align_weight: alpha and lambda_a of equation 11.
        num_steps: of Adam.
        lr: its learning rate.
    """

    product = "hazard.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"num_steps": 2}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        val: str | None = None,
        positives: list[CriterionSpec] | None = None,
        pixel_weight: Annotated[float, Range(0)] = 0.01,
        align_weight: Annotated[float, Range(0)] = 0.01,
        num_steps: PositiveInt = 100,
        lr: Annotated[float, Range(0)] = 2e-3,
    ) -> None:
        super().__init__(options=options, context=context)
        self.val, self.positives = val, positives or [criterion("ssim")]
        self.pixel_weight, self.align_weight, self.num_steps, self.lr = pixel_weight, align_weight, num_steps, lr

    def units(self) -> tuple[float, str]:
        return self.num_steps, "steps"

    def work(self) -> None:
        if self.context.is_main:
            self._descend()

    def _loss(self, detach_anchor: bool) -> AlignmentLoss:
        return AlignmentLoss(positives=self.positives, detach_anchor=detach_anchor, loss_weight=self.align_weight)

    def _descend(self) -> None:
        start, target = self._images()
        values = {"start": _values(start, target)}
        for name, detach in FORMS.items():
            loss = None if detach is None else self._loss(detach)
            end = descend(start, target, loss, pixel_weight=self.pixel_weight, num_steps=self.num_steps, lr=self.lr)
            values[name] = _values(end, target)
        loss = self._loss(False)
        task_ids = torch.zeros(len(start), dtype=torch.int64)
        with torch.no_grad():
            anchor, others = loss.criteria(
                LossContext({"align": start}, {"gt": target}, start, task_ids, None, 0)
            )  # fmt: skip
            pull = anchor_pull(anchor, others, pixel_weight=self.pixel_weight, align_weight=self.align_weight)
        values["start"]["raises_error"] = (pull < 0).float().mean((1, 2, 3)).tolist()
        Hazard(num_images=len(start), values=values, **stamp(self.options)).save(self.folder / self.product)

    def _images(self) -> tuple[Tensor, Tensor]:
        sets = build.build_val_sets(self.options)
        name = self.val or next(iter(sets), "")
        if name not in sets:
            raise ConfigError(f"there is no validation set '{name}'", place=f"{self.options.name}: run.val")
        batches = [sets[name].val_sample(i, None) for i in range(len(sets[name]))]
        if len({b.gt.shape for b in batches if b.gt is not None}) != 1:
            raise ConfigError("images of one size are needed", place=f"datasets.val.{name}", remedy="set val_crop")
        enlarge = bicubic(self.options.scale)
        return torch.cat([enlarge(b.lq) for b in batches]), torch.cat([b.gt for b in batches])

    def page(self) -> Report:
        values = Hazard.load(self.folder / self.product).values
        columns = [
            Column("psnr", "PSNR", higher_is_better=True),
            Column("c_pix", "C_pix", digits=4),
            Column("c_ssim", "C_ssim", digits=4),
            Column("raises_error", "error raised as printed", digits=3),
        ]
        rows = [Row(name, {k: aggregate(v) for k, v in entry.items()}) for name, entry in values.items()]
        caption = (
            f"{self.num_steps} steps of Adam on the pixels. PSNR RGB, no crop, not rounded; mean ± deviation over "
            "images. Last column: share of pixels in which the printed alignment outweighs the pixel loss at the start."
        )
        table = Table(columns, rows, caption=caption, row_head="Alignment")
        report = Report(self.options.name, subtitle="The alignment as printed and with a detached anchor")
        report.section("Descent on the image").add_table("hazard", table)
        logger.info("%s", table.to_markdown())
        return report


@torch.no_grad()
def _values(image: Tensor, target: Tensor) -> dict[str, list[float]]:
    mse = (image - target).square().mean((1, 2, 3))
    context = LossContext({}, {}, image, torch.zeros(len(image), dtype=torch.int64), None, 0)
    found = {"psnr": (10 * (1 / mse.clamp_min(1e-12)).log10()).tolist()}
    for name in ("pixel", "ssim"):
        found[f"c_{name.replace('pixel', 'pix')}"] = (
            criterion(name).build()(image, target, context).mean((1, 2, 3)).tolist()
        )
    return found

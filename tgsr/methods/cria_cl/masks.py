"""Which regions each branch owns (equation 10): masks drawn and measured, and the hazard of the printed alignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tgsr.config.schema import Options
from tgsr.config.spec import NonNegativeInt, PositiveInt, Range
from tgsr.data.batch import Batch
from tgsr.engine import build
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.losses.base import LossContext
from tgsr.methods.cria_cl.losses import AlignmentLoss, mask_state
from tgsr.report.builder import Report
from tgsr.report.strips import Panel, choose_crop, make_strip
from tgsr.report.tables import Column, Number, Row, Table, aggregate
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.stage import Stage
from tgsr.utils.errors import ConfigError, UserError

STRIPS = "strips"
"""Folder of the drawn images, below the stage's."""


def region_maps(gt: Tensor, *, window: int = 9) -> dict[str, Tensor]:
    """Flat, textured and edge regions of an image, one third of the activity each.

    The structure tensor of the luminance over a window gives its energy (how much changes) and its coherence (whether
    in one direction). Flat: the third of the pixels with the least energy. Of the rest, edge: coherence above its
    median there; texture: below.

    Args:
        gt: `(1, 3, H, W)` in [0, 1].
        window: edge of the window, px, odd.

    Returns:
        Region -> bool `(1, 1, H, W)`; they cover the image without overlap.
    """
    grey = gt.float().mean(1, keepdim=True)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    border = window // 2
    products = F.pad(torch.cat([dx * dx, dy * dy, dx * dy], 1), (border,) * 4, mode="replicate")
    xx, yy, xy = F.avg_pool2d(products, window, stride=1).split(1, 1)
    energy = xx + yy
    coherence = ((xx - yy).square() + 4 * xy.square()).clamp_min(0).sqrt() / energy.clamp_min(1e-12)
    flat = energy <= torch.quantile(energy.flatten(), 1 / 3)
    middle = coherence[~flat].median() if (~flat).any() else coherence.new_tensor(0.0)
    edge = ~flat & (coherence > middle)
    return {"flat": flat, "texture": ~flat & ~edge, "edge": edge}


def anchor_pull(
    anchor: Tensor, positives: Sequence[Tensor], *, pixel_weight: float, align_weight: float, eta: float = 2.0
) -> Tensor:
    """Net weight of the pixel error where S = 1 (I_SR = I_align), when the alignment acts on its anchor as printed.

    alpha + lambda_a * d/dC_a sum_i |C_a - C_i|^eta. Where it is negative, training enlarges the pixel error.

    Returns:
        The shape of the anchor.
    """
    total = torch.zeros_like(anchor)
    for positive in positives:
        difference = anchor - positive
        total = total + eta * difference.abs().pow(eta - 1) * difference.sign()
    return pixel_weight + align_weight * total


def measure_masks(outputs: Mapping[str, Tensor], gt: Tensor) -> dict[str, float]:
    """Numbers of one image: mean of S, per region too, and the quality of each branch.

    Args:
        outputs: of the network, batch of one.
        gt: `(1, 3, H, W)`.
    """
    found = {f"psnr_{name}": _psnr(outputs[name], gt) for name in ("sr", "align", "unif") if name in outputs}
    mask = owner_map(outputs)
    if mask is None:
        return found
    mean, saturated = mask_state(mask)
    found.update({"s_mean": mean, "s_saturated": saturated, "s_std": mask.float().std().item()})
    for name, region in region_maps(gt).items():
        found[f"s_{name}"] = mask[region].float().mean().item() if region.any() else float("nan")
    return found


def owner_map(outputs: Mapping[str, Tensor]) -> Tensor | None:
    """S, or the released network's `share`, or None."""
    return outputs.get("mask", outputs.get("share"))


def _psnr(image: Tensor, gt: Tensor) -> float:
    mse = (image.float().clamp(0, 1) - gt.float()).square().mean().item()
    return 10 * float(np.log10(1 / max(mse, 1e-12)))


def heat(values: Tensor, *, low: float, high: float) -> Tensor:
    """`(1, 1, H, W)` as colours `(3, H, W)`: dark blue at `low`, yellow at `high`."""
    from matplotlib import colormaps

    scaled = ((values[0, 0].float() - low) / max(high - low, 1e-8)).clamp(0, 1).cpu().numpy()
    return torch.from_numpy(colormaps["viridis"](scaled)[..., :3].astype(np.float32)).permute(2, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Masks(Artefact):
    """A `masks.json`.

    Attributes:
        weights: of the network.
        dataset: validation set.
        means: number -> mean over the images.
        images: image -> number -> value.
    """

    schema: ClassVar[str] = "tgsr.cria_masks"
    made_by: ClassVar[str] = "CriaMasks"

    weights: str
    dataset: str
    means: Mapping[str, float]
    images: Mapping[str, Mapping[str, float]]


@RUNNERS.register()
class CriaMasks(Stage):
    """Draws S and both branches of a trained network, and measures who owns what -> `masks.json` and a report.

    Ranks share the images.

    Args:
        val: validation set; None: the first one.
        num_images: images drawn.
        num_measured: images measured; None: the whole set.
        crop_size: edge of the enlarged part, px of the result.
        pixel_weight: alpha of equation 11, for the share of pixels where the printed alignment outweighs the pixel
            loss; measured where `train.losses` has an AlignmentLoss whose criteria need no discriminator.
        align_weight: lambda_a of equation 11; None: that of the AlignmentLoss.
    """

    product = "masks.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"num_measured": 2, "num_images": 1, "crop_size": 16}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        val: str | None = None,
        num_images: NonNegativeInt = 3,
        num_measured: PositiveInt | None = None,
        crop_size: PositiveInt = 64,
        pixel_weight: Annotated[float, Range(0)] = 0.01,
        align_weight: Annotated[float, Range(0)] | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.val, self.num_images, self.num_measured, self.crop_size = val, num_images, num_measured, crop_size
        self.pixel_weight, self.align_weight = pixel_weight, align_weight

    def units(self) -> tuple[float, str]:
        return self.num_measured or 100, "images"

    @torch.inference_mode()
    def work(self) -> None:
        if self.options.path.pretrain_network_g is None:
            raise UserError("masks need weights", place=f"{self.options.name}: path.pretrain_network_g")
        net = build.build_network(self.options).to(self.context.device).eval()
        name, dataset = self._dataset()
        loss = self._alignment()
        count = min(len(dataset), self.num_measured or len(dataset))
        found = []
        for i in range(self.context.rank, count, self.context.world_size):
            if self.context.stop_requested:
                break
            found.append((i, dataset.name(i), self._measure(net, loss, dataset.val_sample(i, None), name, i)))
        self.stop_if_asked()
        rows = {image: values for _, image, values in sorted(self.context.gather(found))}
        if self.context.is_main:
            means = {k: v.value for k, v in _means(rows).items()}
            weights = str(self.options.path.pretrain_network_g)
            Masks(weights=weights, dataset=name, means=means, images=rows, **stamp(self.options)).save(
                self.folder / self.product
            )

    def _measure(
        self, net: torch.nn.Module, loss: AlignmentLoss | None, batch: Batch, name: str, index: int
    ) -> dict[str, float]:
        """Numbers of one image; the first ones are drawn, too."""
        if batch.gt is None:
            raise ConfigError("masks are measured on images with a ground truth", place=f"datasets.val.{name}")
        outputs = net(batch.lq.to(self.context.device))
        if not isinstance(outputs, dict) or "align" not in outputs:
            raise ConfigError(
                f"{type(net).__name__} has no branches",
                place="network_g",
                remedy="choose CriaCLPaper or CriaCLReleased",
            )
        outputs = {k: v.cpu().float() for k, v in outputs.items()}
        if index < self.num_images:
            file = self.folder / STRIPS / f"{index:03d}.png"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(self._strip(outputs, batch.lq, batch.gt))
        return {**measure_masks(outputs, batch.gt), **self._hazard(loss, outputs, batch)}

    def _dataset(self) -> tuple[str, Any]:
        sets = build.build_val_sets(self.options)
        name = self.val or next(iter(sets), "")
        if name not in sets:
            raise ConfigError(
                f"there is no validation set '{name}'", place=f"{self.options.name}: run.val",
                remedy=f"known: {', '.join(sets) or 'none'}",
            )  # fmt: skip
        return name, sets[name]

    def _alignment(self) -> AlignmentLoss | None:
        losses = self.options.train.losses if self.options.train is not None else {}
        spec = next((s for s in losses.values() if s.type == "AlignmentLoss"), None)
        return None if spec is None else spec.build()

    def _hazard(self, loss: AlignmentLoss | None, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
        """Share of pixels in which the printed alignment makes training enlarge the pixel error."""
        if loss is None:
            return {}
        task_ids = torch.zeros(1, dtype=torch.int64)
        context = LossContext(outputs, {"gt": batch.gt}, batch.lq, task_ids, None, 0)
        try:
            anchor, others = loss.criteria(context)
        except ConfigError:  # a criterion that asks the discriminator
            return {}
        weight = loss.loss_weight if self.align_weight is None else self.align_weight
        net = anchor_pull(anchor, others, pixel_weight=self.pixel_weight, align_weight=weight, eta=loss.eta)
        return {"raises_error": (net < 0).float().mean().item(), "anchor": anchor.mean().item()}

    def _strip(self, outputs: Mapping[str, Tensor], lq: Tensor, gt: Tensor) -> bytes:
        images = {k: outputs[k][0].clamp(0, 1) for k in ("align", "unif", "sr")}
        panels = [Panel("LQ", lq[0]), Panel("I_align", images["align"]), Panel("I_unif", images["unif"])]
        mask = owner_map(outputs)
        if mask is not None:
            low, high = (torch.quantile(mask.flatten(), q).item() for q in (0.01, 0.99))
            panels.append(Panel("S", heat(mask, low=low, high=high), f"{low:.2f} to {high:.2f}"))
        panels += [Panel("result", images["sr"], f"{_psnr(outputs['sr'], gt):.2f} dB"), Panel("GT", gt[0])]
        scale = gt.shape[-1] // lq.shape[-1]
        size = min(self.crop_size, *gt.shape[-2:])
        top, left = choose_crop(images["align"], images["unif"], size=size, multiple=scale)
        return make_strip(panels, crop=(top, left, size))

    def page(self) -> Report:
        found = Masks.load(self.folder / self.product)
        means = _means(found.images)
        columns = [Column(k, LABELS.get(k, k), digits=2 if k.startswith("psnr") else 3) for k in means]
        body = [Row(image, {k: Number(v) for k, v in values.items()}) for image, values in found.images.items()]
        table = Table(columns, [Row("mean ± deviation over images", means, is_ranked=False)], caption=CAPTION)
        report = Report(self.options.name, subtitle=f"Which regions each branch owns, on {found.dataset}")
        report.section("Masks").add_table("masks", table)
        for i, image in enumerate(list(found.images)[: self.num_images]):
            caption = f"{image}. S in the range below it: the share of I_align. Enlarged: where the branches differ."
            report.add_strip(f"mask_{image}", (self.folder / STRIPS / f"{i:03d}.png").read_bytes(), caption=caption)
        full = Table(columns, body, row_head="Image")
        report.add_table("masks_of_images", full, title="Every image", is_folded=True)
        return report


def _means(rows: Mapping[str, Mapping[str, float]]) -> dict[str, Number]:
    return {k: aggregate([values[k] for values in rows.values()]) for k in next(iter(rows.values()), {})}


LABELS = {
    "s_mean": "S", "s_std": "deviation of S", "s_saturated": "S at 0 or 1", "s_flat": "S, flat",
    "s_texture": "S, texture", "s_edge": "S, edges", "psnr_sr": "PSNR result", "psnr_align": "PSNR I_align",
    "psnr_unif": "PSNR I_unif", "raises_error": "error raised as printed", "anchor": "C_a",
}  # fmt: skip
CAPTION = (
    "PSNR on RGB without a crop, images not rounded. S: mean of the mask; flat, texture, edges: where it lies by the "
    "structure tensor of the ground truth. Error raised as printed: share of pixels in which the alignment without "
    "detach_anchor outweighs the pixel loss where S = 1."
)

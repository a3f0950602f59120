"""The two stages everybody knows: training and testing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.engine import build
from tgsr.engine.context import Context
from tgsr.engine.logger import pretty
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.engine.tiling import TiledRestorer
from tgsr.engine.trainer import Trainer
from tgsr.engine.validation import Restore, evaluate
from tgsr.models.precision import Precision, resolve_precision
from tgsr.utils.errors import UserError
from tgsr.utils.files import write_json

logger = logging.getLogger("tgsr")


@RUNNERS.register()
class Train(Runner):
    """Plain training, then the numbers of the final weights on the validation sets.

    Attributes:
        trainer: after `run`, for those who want more than files.
    """

    trainer: Trainer

    def run(self) -> None:
        trainer = self.trainer = Trainer(self.options, self.context)
        trainer.run()
        if trainer.is_stopping or not trainer.val_sets:
            return
        write_metrics(
            self.options,
            self.context,
            trainer.restore,
            trainer.val_sets,
            trainer.metrics,
            weights=trainer.experiment.models / "net_g_latest.pth",
            iteration=trainer.iteration,
        )

    def check(self) -> list[str]:
        """One real step in memory: builds everything, reads one batch, names parameters that get no gradient."""
        trainer = Trainer(self.options, self.context)
        try:
            batches = next(trainer.data.iterations(0, 1))
            trainer.model.step(batches, 0)
        finally:
            trainer.data.close()
        problems = []
        for name, part in trainer.model.trained().items():
            unused = [n for n, p in part.net.named_parameters() if p.requires_grad and p.grad is None]
            if unused:
                problems.append(
                    f"network_{name}: {len(unused)} parameters get no gradient ({', '.join(unused[:5])}); on several "
                    "GPUs set train.find_unused_parameters: true"
                )
        if self.context.device.type == "cuda":
            logger.info("peak GPU memory of one step: %.2f GiB", torch.cuda.max_memory_allocated() / 2**30)
        shapes = {k: tuple(getattr(batches[0], k).shape) for k in ("lq", "gt")}
        logger.info("one step works: lq %s, gt %s, %d images", shapes["lq"], shapes["gt"], len(trainer.data.dataset))
        return problems


@RUNNERS.register()
class Test(Runner):
    """Measure given weights on the sets under `datasets.val`.

    Args:
        save_images: keep restored images and what strips need.
    """

    def __init__(self, *, options: Options, context: Context, save_images: bool = True) -> None:
        super().__init__(options=options, context=context)
        self.save_images = save_images

    def run(self) -> None:
        weights = self.options.path.pretrain_network_g
        if weights is None:
            raise UserError(
                "testing needs weights", place=f"{self.options.name}: path.pretrain_network_g", remedy="give their path"
            )
        write_metrics(
            self.options,
            self.context,
            make_restorer(self.options, self.context),
            build.build_val_sets(self.options),
            build.build_metrics(self.options),
            weights=weights,
            iteration=None,
            save_images=self.save_images,
        )


def make_restorer(options: Options, context: Context) -> TiledRestorer:
    """The network of the options with its weights, for images of any size; nothing that trains."""
    net = build.build_network(options).to(context.device).eval()
    precision = Precision(resolve_precision(options.precision, context.device), context.device)

    @torch.inference_mode()
    def restore(lq: torch.Tensor) -> torch.Tensor:
        with precision.autocast():
            output = net(lq.to(context.device))
        return (output if isinstance(output, torch.Tensor) else output["sr"]).float()

    return TiledRestorer(restore, net, scale=options.scale, tile=options.val.tile, max_pixels=options.val.max_pixels)


def write_metrics(
    options: Options,
    context: Context,
    restore: Restore,
    datasets: dict[str, Any],
    metrics: dict[str, Any],
    *,
    weights: Path,
    iteration: int | None,
    save_images: bool = True,
) -> dict[str, Any]:
    """Evaluate and write `results/<name>/metrics.json`; the content, on all ranks."""
    results = Path(options.path.results_root) / options.name
    content = evaluate(
        restore,
        datasets,
        metrics,
        context,
        results=results,
        scale=options.scale,
        stamp={
            "name": options.name,
            "options": options_hash(options),
            "seed": options.manual_seed,
            "weights": str(weights),
            "iteration": iteration,
        },
        save_images=save_images,
    )
    if context.is_main:
        write_json(results / "metrics.json", content)
        for name, entry in content["datasets"].items():
            logger.info("%s: %s", name, pretty({m: v["mean"] for m, v in entry["metrics"].items()}))
            for baseline, values in entry["baselines"].items():
                logger.info("%s, %s: %s", name, baseline, pretty({m: v["mean"] for m, v in values.items()}))
    return content

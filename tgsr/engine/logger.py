"""Where a run's numbers go: `log.jsonl`, TensorBoard, Weights & Biases, the terminal."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tgsr.config.schema import LoggerOptions
from tgsr.utils.errors import UserError
from tgsr.utils.files import append_jsonl, read_jsonl, to_json, write_atomic
from tgsr.utils.registry import Registry

logger = logging.getLogger("tgsr")
T = TypeVar("T")
SINKS = Registry("log sink", package="tgsr.engine")
"""Where numbers go besides `log.jsonl`, TensorBoard and W&B: those that `logger.sinks` may name."""


class Sink:
    """Receives what a run logs; on rank 0 only."""

    def open(self, folder: Path, name: str, resume_at: int | None) -> None:
        """The run starts, or goes on after `resume_at` iterations: what was received of later ones comes again.

        Args:
            folder: `experiments/<name>`.
            name: of the run.
        """

    def event(self, kind: str, iteration: int, content: Mapping[str, Any]) -> None:
        """`train`, `val` or `tasks`, as in `log.jsonl`."""

    def close(self) -> None:
        """The run ends."""


def progress(items: Iterable[T], label: str, *, is_shown: bool, total: int | None = None, start: int = 0) -> Any:
    """A progress bar with ETA around `items` on a terminal, and nothing where the output is a file."""
    from tqdm import tqdm

    disable = None if is_shown else True  # None: only on a terminal
    return tqdm(items, desc=label, total=total, initial=start, disable=disable, dynamic_ncols=True, leave=False)


class RunLogger:
    """Writes events of one run; on ranks other than 0 it writes nothing.

    Args:
        folder: `experiments/<name>`.
        options: which back ends.
        name: of the run.
        is_main: whether this is rank 0.
        resume_at: events after this iteration are dropped, and counted in `num_dropped`: they come again.
        again: kinds of events that also come again at this iteration.
        wandb_id: of the W&B run to go on with.
    """

    def __init__(
        self,
        folder: Path,
        options: LoggerOptions,
        *,
        name: str,
        is_main: bool,
        resume_at: int | None = None,
        again: Collection[str] = (),
        wandb_id: str | None = None,
    ) -> None:
        self.path = folder / "log.jsonl"
        self.num_dropped = 0
        self.is_main = is_main
        self._tensorboard = self._wandb = None
        self._sinks: list[Sink] = []
        if not is_main:
            return
        if resume_at is not None and self.path.exists():
            found = [e for e in read_jsonl(self.path) if isinstance(e, dict)]
            ends = dict.fromkeys(again, resume_at - 1)
            kept = [e for e in found if e.get("iter", 0) <= ends.get(e.get("event"), resume_at)]
            self.num_dropped = len(found) - len(kept)
            text = "".join(to_json(e) + "\n" for e in kept)
            write_atomic(self.path, lambda f: f.write(text.encode()))
        for spec in (options.sinks or {}).values():
            self._sinks.append(spec.build())
            self._sinks[-1].open(folder, name, resume_at)
        if options.use_tb_logger:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                logger.warning("tensorboard is not installed; going on without (logger.use_tb_logger: false)")
            else:
                # What it has of the iteration itself is purged as well, so it is told again.
                self._tensorboard = SummaryWriter(str(folder / "tb_logger"), purge_step=resume_at)
                for event in read_jsonl(self.path) if resume_at is not None else ():
                    if event.get("iter") == resume_at:
                        self._draw(event["event"], resume_at, event)
        if options.wandb is not None:
            try:
                import wandb
            except ImportError:
                raise UserError("logger.wandb needs the package wandb", remedy="pip install wandb") from None
            try:
                self._wandb = wandb.init(
                    project=options.wandb.project, name=name, id=options.wandb.resume_id or wandb_id,
                    resume="allow", dir=str(folder),
                )  # fmt: skip
            except Exception as error:  # no key, no network, no such project
                raise UserError(
                    f"W&B does not start: {' '.join(str(error).split())[:200]}",
                    place="logger.wandb",
                    remedy="wandb login, or WANDB_API_KEY, or WANDB_MODE=offline; or leave logger.wandb out",
                ) from error

    def event(self, kind: str, iteration: int, **content: Any) -> None:
        """One line of `log.jsonl`; its numbers also as curves."""
        if not self.is_main:
            return
        append_jsonl(self.path, {"event": kind, "iter": iteration, **content})
        self._draw(kind, iteration, content)
        for sink in self._sinks:
            sink.event(kind, iteration, content)
        if self._wandb is not None:
            self._wandb.log(dict(_flatten(kind, content)), step=iteration)

    @property
    def wandb_id(self) -> str | None:
        """Of the W&B run, on rank 0."""
        return None if self._wandb is None else self._wandb.id

    def _draw(self, kind: str, iteration: int, content: Mapping[str, Any]) -> None:
        if self._tensorboard is not None:
            for name, value in _flatten(kind, {k: v for k, v in content.items() if k not in ("event", "iter")}):
                self._tensorboard.add_scalar(name, value, iteration)

    def images(self, dataset: str, iteration: int, rows: Mapping[str, np.ndarray]) -> None:
        """Pictures of a validation, (H, W, 3) uint8 by name, to TensorBoard and W&B."""
        named = {f"val/{dataset}/{name}": image for name, image in rows.items()}
        if self._tensorboard is not None:
            for name, image in named.items():
                self._tensorboard.add_image(name, image, iteration, dataformats="HWC")
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Image(image) for name, image in named.items()}, step=iteration)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def _flatten(prefix: str, content: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flatten(f"{prefix}/{key}", value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and key != "time":
            yield f"{prefix}/{key}", float(value)


def pretty(content: Mapping[str, Any]) -> str:
    """`psnr 23.4123  ssim 0.6312` for the terminal."""
    return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {json.dumps(v)}" for k, v in content.items())

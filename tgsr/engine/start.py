"""What a training tells before its first iteration, and what `--check` says that it will cost."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import tgsr
from tgsr.models.precision import resolve_precision
from tgsr.utils.files import append_jsonl
from tgsr.utils.memory import peak_memory
from tgsr.utils.text import clock, count
from tgsr.utils.threads import crowding

if TYPE_CHECKING:
    from tgsr.engine.trainer import Trainer

logger = logging.getLogger("tgsr")


def tell_start(trainer: Trainer) -> None:
    """Networks, data, device and folder, a line each, and what will slow it down."""
    if not trainer.context.is_main:
        return
    for line in (_networks(trainer), _data(trainer), _device(trainer), _folder(trainer)):
        logger.info(line)
    crowded = crowding(torch.get_num_threads()) if trainer.context.device.type == "cpu" else None
    if crowded is not None:
        logger.warning(crowded)


def record_start(trainer: Trainer) -> None:
    """A line of `starts.jsonl` in the run's folder: what its report tells beside the numbers."""
    if not trainer.context.is_main:
        return
    facts = {
        "iter": trainer.iteration,
        "time": time.time(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "revision": revision(),
        "networks": _networks(trainer).partition(", ")[2],
        "data": _data(trainer).partition(": ")[2],
        "device": _device(trainer).partition(": ")[2],
        "precision": resolve_precision(trainer.options.precision, trainer.context.device),
    }
    append_jsonl(trainer.experiment.path / "starts.jsonl", facts)


def revision() -> str:
    """Version of the package, and of its checkout where it is one: `0.1.0, 3f2a91c` (`-dirty` with changes)."""
    folder = Path(tgsr.__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return tgsr.__version__
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603, S607
    except (OSError, subprocess.SubprocessError):  # no git, or not its owner
        return tgsr.__version__
    return f"{tgsr.__version__}, {found.stdout.strip()}"


def tell_cost(trainer: Trainer, seconds_per_step: float) -> None:
    """What `--check` has measured with one step, and what that makes of the whole run."""
    where = "the GPU's" if trainer.context.device.type == "cuda" else "the process's"
    logger.info("memory: %.2f GiB at %s peak", peak_memory(trainer.context.device) / 2**30, where)
    state, iterations = _bytes(trainer.weights()) + _bytes(trainer.state_dict()), trainer.total_iter
    keep = trainer.options.logger.keep_last
    logger.info(
        "cost: a step takes %.3g s here, %d of them %s, without data and validation; a checkpoint takes %.3g MB, %s",
        seconds_per_step,
        iterations,
        clock(seconds_per_step * iterations),
        state / 1e6,
        "and all are kept" if keep is None else f"and the last {keep} are kept",
    )


def _networks(trainer: Trainer) -> str:
    options, path = trainer.options, trainer.options.path
    parts = []
    for spec, net, start in (
        (options.network_g, trainer.model.net_g, path.pretrain_network_g),
        (options.network_d, getattr(trainer.model, "net_d", None), path.pretrain_network_d),
    ):
        if spec is not None and net is not None:
            size = count(sum(p.numel() for p in net.parameters()))
            parts.append(f"{spec.type} with {size} parameters {f'from {start}' if start else 'from scratch'}")
    return f"{options.name}: x{options.scale}, {'; '.join(parts)}"


def _data(trainer: Trainer) -> str:
    train, data = trainer.options.train, trainer.options.datasets.train
    assert train is not None
    assert data is not None
    num, batch, passes = len(trainer.data.dataset), trainer.batch_size, trainer.batch_size * trainer.total_iter
    factors = [f"{data.batch_size_per_gpu} a process"]
    factors += [f"{trainer.context.world_size} processes"] if trainer.context.world_size > 1 else []
    factors += [f"{train.accumulation_steps} accumulation steps"] if train.accumulation_steps > 1 else []
    product = f" ({' x '.join(factors)})" if len(factors) > 1 else ""
    return (
        f"data: {num} images; {batch} an iteration{product}; {trainer.total_iter} iterations are "
        f"{passes / max(num, 1):.3g} epochs"
    )


def _device(trainer: Trainer) -> str:
    context, data = trainer.context, trainer.options.datasets.train
    assert data is not None
    if context.device.type == "cuda":
        name = torch.cuda.get_device_name(context.device)
    else:
        num = torch.get_num_threads()
        name = f"CPU, {num} thread{'s' if num != 1 else ''}"
        name += "" if trainer.options.device == "cpu" or torch.cuda.is_available() else " (torch sees no GPU)"
    ranks = f", {context.world_size} processes" if context.world_size > 1 else ""
    precision = resolve_precision(trainer.options.precision, context.device)
    workers = f"{data.num_worker_per_gpu} loader worker{'s' if data.num_worker_per_gpu != 1 else ''}"
    return f"device: {name}{ranks}, {precision}, {workers}{' a process' if ranks else ''}"


def _folder(trainer: Trainer) -> str:
    log = trainer.options.logger
    keep = "all are kept" if log.keep_last is None else f"the last {log.keep_last} are kept"
    val = trainer.options.val.val_freq
    when = "after the last iteration" if val is None or val > trainer.total_iter else f"every {val} iterations"
    sets = ", ".join(f"{name} ({len(s)} images)" for name, s in trainer.val_sets.items())
    validation = f"; validation of {sets} {when}" if sets else "; no validation"
    saving = f"a checkpoint every {log.save_checkpoint_freq} iterations, {keep}"
    return f"folder: {trainer.experiment.path}; {saving}{validation}"


def _bytes(value: Any) -> int:
    """Of the tensors in a container, those that share memory once."""
    found: dict[int, int] = {}

    def walk(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            found[item.data_ptr()] = item.numel() * item.element_size()
        elif isinstance(item, (Mapping, list, tuple)):
            for child in item.values() if isinstance(item, Mapping) else item:
                walk(child)

    walk(value)
    return sum(found.values())

"""Checkpoints: whole or absent, written in the background, the newest good one found on resume."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tgsr.utils.errors import CheckpointError, UserError
from tgsr.utils.files import archive_damage, write_atomic

logger = logging.getLogger("tgsr")
STATE_VERSION = 1
_PRIMITIVES = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
MAX_UNWRITTEN = 2
"""Checkpoints in memory at most: the best weights and the checkpoint of one iteration."""


class Experiment:
    """Folder of one run: `models/`, `training_states/`, `log.jsonl`, the option file as run.

    Args:
        root: `experiments/`.
        name: of the run.
        results: `results/<name>`, moved aside with the experiment; None: the run writes none.
    """

    def __init__(self, root: Path, name: str, *, results: Path | None = None) -> None:
        self.path, self.results = Path(root) / name, results
        self.models, self.states = self.path / "models", self.path / "training_states"

    def prepare(self, *, resume: bool) -> None:
        """Make the folders; what an older run left, and is not resumed, is moved aside with its results."""
        if not resume:
            move_aside(self.path, *([] if self.results is None else [self.results]))
        try:
            self.models.mkdir(parents=True, exist_ok=True)
            self.states.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot be made: {error}", place=str(self.path)) from error
        for folder in (self.models, self.states):  # what a kill left half written
            for temporary in folder.glob(".*.tmp"):
                temporary.unlink(missing_ok=True)

    def iterations(self) -> list[int]:
        """Iterations of the saved states, ascending."""
        return sorted(int(p.stem) for p in self.states.glob("*.state") if p.stem.isdigit())

    def load_newest(self) -> dict[str, Any] | None:
        """The newest state that can be read; damaged ones are passed over with a warning. None where there are none.

        Raises:
            CheckpointError: there are states, and none can be read: starting over would put an end to this run.
        """
        iterations = self.iterations()
        for iteration in reversed(iterations):
            path = self.states / f"{iteration}.state"
            try:
                return load_state(path)
            except CheckpointError as error:
                logger.warning("%s; trying the one before", error)
        if iterations:
            raise CheckpointError(
                f"none of the {len(iterations)} training states can be read",
                place=str(self.states),
                remedy="mend what the warnings say; to start from the beginning, run without --auto_resume (the "
                "experiment is moved aside, not lost)",
            )
        return None

    def set_aside(self, *, after: int) -> None:
        """Rename states of later iterations than the one a run goes on from, damaged or not.

        They belong to another course of the run: `keep_last` must not count them, the next resume not prefer them.
        """
        for iteration in self.iterations():
            if iteration > after:
                path = self.states / f"{iteration}.state"
                logger.warning("%s lies ahead of the resumed iteration %d: renamed to %s.old", path, after, path.name)
                path.replace(path.with_name(f"{path.name}.old"))


def move_aside(*folders: Path) -> None:
    """Rename folders to `<name>_archived_<time>`, all with the same stamp; what is absent or empty stays.

    Raises:
        UserError: one cannot be renamed.
    """
    found = [f for f in folders if f.is_dir() and any(f.iterdir())]
    suffix = stamp = f"_archived_{datetime.now():%Y%m%d_%H%M%S}"
    number = 0
    while any(f.with_name(f.name + suffix).exists() for f in found):
        number += 1
        suffix = f"{stamp}_{number}"
    for folder in found:
        target = folder.with_name(folder.name + suffix)
        try:
            folder.rename(target)
        except OSError as error:
            raise UserError(f"cannot be moved aside: {error}", place=str(folder)) from error
        logger.warning("%s existed and was moved to %s", folder, target)


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state: tensors and primitives only, nothing in it is executed."""
    if not path.is_file():
        raise CheckpointError("no such file", place=str(path))
    damage = archive_damage(path)
    if damage:
        raise CheckpointError(f"damaged or not a training state ({damage})", place=str(path))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own words advise to load without its guard
        raise CheckpointError(f"damaged or not a training state ({type(error).__name__})", place=str(path)) from None
    if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
        raise CheckpointError(
            f"not a training state of tgsr, version {STATE_VERSION}",
            place=str(path),
            remedy="give its weights as path.pretrain_network_g instead",
        )
    if not isinstance(state.get("iteration"), int) or state["iteration"] < 0:
        raise CheckpointError("a training state without its iteration", place=str(path))
    return state


def snapshot(value: Any, copies: dict[Any, torch.Tensor] | None = None) -> Any:
    """A copy on the CPU that later training steps do not change.

    Args:
        value: tensors and primitives in mappings, lists and tuples; NumPy's numbers become Python's.
        copies: what has been copied already; the same memory is copied once, for a state holds the weights again.

    Raises:
        CheckpointError: something else, which could be written but never read back.
    """
    copies = {} if copies is None else copies
    if isinstance(value, torch.Tensor):
        key = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in copies:
            copies[key] = value.detach().to("cpu", copy=True)
        return copies[key]
    if isinstance(value, Mapping):
        return {snapshot(k, copies): snapshot(v, copies) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(snapshot(v, copies) for v in value)
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, _PRIMITIVES):
        raise CheckpointError(
            f"a checkpoint cannot hold {type(value).__module__}.{type(value).__name__}",
            remedy="let state_dict() return tensors, numbers, strings, lists and dicts",
        )
    return value


class CheckpointWriter:
    """Writes checkpoints in a thread, in order, weights first, so that a state never lacks its weights.

    The training loop waits for the copy in memory alone; for the disk only when two checkpoints are still unwritten.

    Args:
        experiment: where to.
        keep_last: how many states and their weights to keep; None: all.
    """

    def __init__(self, experiment: Experiment, *, keep_last: int | None) -> None:
        self.experiment, self.keep_last = experiment, keep_last
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: deque[Future[None]] = deque()

    def save(
        self, iteration: int, weights: Mapping[str, Mapping[str, Any]], state: Mapping[str, Any] | None
    ) -> None:
        """Write `models/<net>_<iteration>.pth`, `<net>_latest.pth` and `training_states/<iteration>.state`.

        Args:
            iteration: finished iterations.
            weights: `net_g` -> `{"params": ..., "params_ema": ...}`; copied before the call returns. A state without
                weights files is one for a sudden end: the next checkpoint takes its place.
            state: all that resume needs, or None for weights alone; copied before the call returns.
        """
        self._make_room()
        copied = snapshot((weights, state))
        self._pending.append(self._executor.submit(self._write, iteration, *copied))

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is not on the disk yet."""
        return any(not pending.done() for pending in self._pending)

    def save_named(self, file_name: str, weights: Mapping[str, Any]) -> None:
        """Write one weights file, such as the best by a metric."""
        self._make_room()
        copied = snapshot(weights)
        self._pending.append(self._executor.submit(save_torch, self.experiment.models / file_name, copied))

    def wait(self) -> None:
        """Until all checkpoints are on the disk.

        Raises:
            UserError: one could not be written; those before it are untouched.
        """
        while self._pending:
            self._pending.popleft().result()

    def _make_room(self) -> None:
        """Forget what has been written, raise what went wrong, wait until fewer than `MAX_UNWRITTEN` are left."""
        while self._pending and (self._pending[0].done() or len(self._pending) >= MAX_UNWRITTEN):
            self._pending.popleft().result()

    def _write(self, iteration: int, weights: Mapping[str, Any], state: Mapping[str, Any] | None) -> None:
        for net, content in weights.items():
            path = self.experiment.models / f"{net}_{iteration}.pth"
            save_torch(path, content)
            _link(path, self.experiment.models / f"{net}_latest.pth")
        if state is not None:
            save_torch(self.experiment.states / f"{iteration}.state", {**state, "version": STATE_VERSION})
        self._prune()

    def _prune(self) -> None:
        iterations = self.experiment.iterations()
        whole = [i for i in iterations if (self.experiment.models / f"net_g_{i}.pth").exists()]
        kept = whole if self.keep_last is None else whole[-self.keep_last :]
        for iteration in iterations:
            if iteration not in kept and iteration != iterations[-1]:
                (self.experiment.states / f"{iteration}.state").unlink()
        if self.keep_last is None:
            return
        for path in self.experiment.models.iterdir():
            match = re.fullmatch(r"net_[a-z]+_(\d+)\.pth", path.name)
            if match and int(match[1]) not in kept:
                path.unlink()


def save_torch(path: Path, content: Any) -> None:
    """`torch.save`, whole or absent."""
    write_atomic(path, lambda file: torch.save(content, file))


def _link(source: Path, target: Path) -> None:
    """Let `target` name the same content as `source`, without a moment in which it does not exist."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)

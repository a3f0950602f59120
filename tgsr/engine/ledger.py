"""TaskLedger: sums of per-sample losses by name and by task, kept on the device until somebody reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tgsr.engine.context import Context
from tgsr.models.base import StepResult


class TaskLedger:
    """Accumulates over a window of iterations; reading it is the only thing that waits for the device.

    Args:
        task_names: of the run's task set, in order.
        context: for the device and the sum over ranks.
    """

    def __init__(self, task_names: Sequence[str], context: Context) -> None:
        self.task_names, self.context = list(task_names), context
        # float64: sums over thousands of iterations must not depend on when they were cut by a resume
        self._tasks = torch.zeros(2, len(self.task_names), dtype=torch.float64, device=context.device)
        self._named: dict[str, torch.Tensor] = {}
        self._scalars: dict[str, torch.Tensor] = {}
        self._num_steps = 0

    def add(self, result: StepResult) -> None:
        """Add one step; a sample whose loss is not finite is left out."""
        total = result.total.double()
        is_good = torch.isfinite(total)
        values = torch.stack([torch.where(is_good, total, 0.0), is_good.double()])
        self._tasks.index_add_(1, result.task_ids, values)
        for name, value in result.losses.items():
            summed = value.double().sum()
            sums = torch.stack([summed, torch.full_like(summed, len(value))])  # made on the device: nothing waits
            self._named[name] = self._named[name] + sums if name in self._named else sums
        for name, scalar in result.scalars.items():
            self._scalars[name] = self._scalars[name] + scalar.double() if name in self._scalars else scalar.double()
        self._num_steps += 1

    def read(self) -> dict[str, Any]:
        """`{"losses": name -> mean, "tasks": task -> {"loss", "count"}, "scalars": name -> mean}` over all ranks."""
        tasks = self.context.sum(self._tasks.clone()).tolist()
        losses = {}
        for name, sums in self._named.items():
            total, count = self.context.sum(sums.clone()).tolist()
            losses[name] = total / max(count, 1)
        return {
            "losses": losses,
            "tasks": {
                name: {"loss": total / count, "count": int(count)}
                for name, total, count in zip(self.task_names, *tasks, strict=True)
                if count > 0
            },
            "scalars": {k: (v / max(self._num_steps, 1)).item() for k, v in self._scalars.items()},
        }

    def clear(self) -> None:
        """Begin a new window."""
        self._tasks.zero_()
        self._named.clear()
        self._scalars.clear()
        self._num_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """The window so far, sums over all ranks: what an interval's feedback and a log line need after a resume."""
        return {
            "tasks": self.context.sum(self._tasks.clone()),
            "named": {name: self.context.sum(sums.clone()) for name, sums in self._named.items()},
            "scalars": dict(self._scalars),
            "num_steps": self._num_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Rank 0 takes the sums of all ranks, so that they are counted once."""
        self.clear()
        self._num_steps = state.get("num_steps", 0)  # states of older versions have the tasks alone
        if self.context.is_main:
            self._tasks.copy_(state["tasks"])
        for name, sums in state.get("named", {}).items():  # on all ranks: they add up the same names
            self._named[name] = sums.to(self.context.device) * float(self.context.is_main)
        self._scalars = {name: value.to(self.context.device) for name, value in state.get("scalars", {}).items()}

"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tgsr.utils.errors import ConfigError

Slots = list[tuple[dict[str, Any], str]]


class EMA:
    """A shadow copy of a network: `shadow = decay * shadow + (1 - decay) * weights` after every step.

    Parameters are averaged in one foreach call; buffers (batch norm's running statistics and counters) are copied,
    for they are averages or state already. Nothing waits for the device.

    Args:
        module: the bare network (not its DDP or compiled wrapper); the copy starts equal to it.
        decay: weight of the past, in [0, 1).

    Attributes:
        module: the shadow, in eval mode, without gradients.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"ema_decay is {decay}", remedy="choose a value in [0, 1), e.g. 0.999")
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        for parameter in self.module.parameters():
            parameter.grad = None
        self._shadow_slots = _slots(self.module)
        self._source: weakref.ref[nn.Module] | None = None
        self._source_slots = self._shadow_slots

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights that `module` has now."""
        self._absorb(module, 1 - self.decay)

    @torch.no_grad()
    def reset(self, module: nn.Module) -> None:
        """Forget the past: become equal to `module`."""
        self._absorb(module, 1.0)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The shadow's own state dict, as saved under `params_ema`."""
        return self.module.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.module.load_state_dict(state, strict=True)

    def _absorb(self, module: nn.Module, weight: float) -> None:
        if self._source is None or self._source() is not module:  # walking the modules costs more than the averaging
            self._source, self._source_slots = weakref.ref(module), _slots(module)
        parameters, buffers = _tensors(self._source_slots)
        shadow_parameters, shadow_buffers = _tensors(self._shadow_slots)
        assert (len(parameters), len(buffers)) == (len(shadow_parameters), len(shadow_buffers)), "another network"
        if parameters:
            torch._foreach_lerp_(shadow_parameters, parameters, weight)
        if buffers:
            torch._foreach_copy_(shadow_buffers, buffers)


def _slots(module: nn.Module) -> tuple[Slots, Slots]:
    """Where the parameters and buffers are kept, each tensor once (weights may be tied).

    The places and not the tensors, because `module.to(...)` and buffer assignments exchange those.
    """
    parameters: Slots = []
    buffers: Slots = []
    seen: set[int] = set()
    for part in module.modules():
        for slots, table in ((parameters, part._parameters), (buffers, part._buffers)):
            for name, tensor in table.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    slots.append((table, name))
    return parameters, buffers


def _tensors(slots: tuple[Slots, Slots]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    parameters, buffers = slots
    return [table[name] for table, name in parameters], [table[name] for table, name in buffers]

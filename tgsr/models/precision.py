"""Precision: fp32, bf16 or fp16 as one object, so that no other code asks which it is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from tgsr.archs.base import as_outputs
from tgsr.utils.errors import ConfigError

Mode = Literal["auto", "fp32", "bf16", "fp16"]


def resolve_precision(mode: Mode, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """`auto` -> bf16 where the device computes it faster than fp32, else fp32."""
    if mode == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        is_fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return "bf16" if is_fast() else "fp32"
    if mode == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU", remedy="use bf16 or fp32 on a CPU")
    return mode


class Precision:
    """Autocast and, for fp16, loss scaling.

    Args:
        mode: already resolved.
        device: where the networks are.
    """

    def __init__(self, mode: Literal["fp32", "bf16", "fp16"], device: torch.device) -> None:
        self.mode, self.device = mode, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=mode == "fp16")
        self._autocast_dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[mode]

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of forward passes; weights and losses stay fp32."""
        if self._autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._autocast_dtype)

    def place(self, net: nn.Module, *, channels_last: bool) -> nn.Module:
        """The network on the device, in the memory format of its images."""
        return net.to(self.device, **_memory(channels_last))

    @torch.inference_mode()
    def restore(self, net: nn.Module, lq: torch.Tensor, *, channels_last: bool) -> torch.Tensor:
        """`(B, 3, h, w)` -> `(B, 3, H, W)` float32, not clamped, by a network in eval mode on the device."""
        with self.autocast():
            output = net(lq.to(self.device, **_memory(channels_last)))
        return as_outputs(output)["sr"]

    def hold_frozen(self, module: nn.Module) -> nn.Module:
        """Round what never learns once instead of in every forward pass, in place: equal numbers, half the memory.

        Autocast rounds weights of convolutions and linear layers whenever they are called, and autograd keeps the
        rounded copy until the backward pass: 38 MiB beside the 76 MiB of a perceptual loss's VGG19.

        Args:
            module: its parts that say `called_under_autocast` (a loss of somebody else's may switch autocast off, and
                then needs its weights as they were).
        """
        if self._autocast_dtype is not None:
            owners = [m for m in module.modules() if getattr(m, "called_under_autocast", False)]
            for part in (part for owner in owners for part in owner.modules()):
                if isinstance(part, (nn.Conv2d, nn.Linear)) and not any(p.requires_grad for p in part.parameters()):
                    part.to(self._autocast_dtype)
        return module

    def backward(self, loss: torch.Tensor) -> None:
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Make gradients true to scale, before clipping and checks."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer, found_bad: torch.Tensor) -> None:
        """Step, unless `found_bad` (scalar, > 0 means skip) or, in fp16, an overflow forbids it.

        Fused optimisers read the flag on the device; for the others it has to be read by the host.
        """
        if self.scaler.is_enabled():
            self.scaler.step(optimizer)
            return
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.grad_scale, optimizer.found_inf = None, found_bad  # type: ignore[attr-defined]
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        elif found_bad.item() == 0:
            optimizer.step()

    def end_iteration(self) -> None:
        """Adapt the loss scale, once for all optimisers that stepped."""
        if self.scaler.is_enabled():
            self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.scaler.load_state_dict(state)


def _memory(channels_last: bool) -> dict[str, Any]:
    return {"memory_format": torch.channels_last} if channels_last else {}

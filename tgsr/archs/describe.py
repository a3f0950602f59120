"""What a network costs: its parameters, and its multiplications and additions for one input."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tgsr.archs.base import as_outputs


@dataclass(frozen=True)
class Description:
    """Attributes:
    network: class name.
    parameters: number of all parameters.
    trainable: of those that require a gradient.
    macs: multiply-adds of convolutions and matrix products for one input of `input_shape`; None: not measured.
    input_shape: (C, H, W).
    output_shape: (C, H, W).
    """

    network: str
    parameters: int
    trainable: int
    macs: int | None = None
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.network}: {self.parameters:,} parameters"
        if self.trainable != self.parameters:
            text += f" ({self.trainable:,} trainable)"
        if self.macs is not None and self.input_shape is not None:
            text += f", {self.macs / 1e9:.2f} G multiply-adds at {'x'.join(map(str, self.input_shape))}"
        return text


def param_summary(net: nn.Module) -> dict[str, int]:
    """Parameters of each direct child that has any, by name, and of the network's own under ''."""
    summary = {"": sum(p.numel() for p in net.parameters(recurse=False))}
    summary.update({name: sum(p.numel() for p in child.parameters()) for name, child in net.named_children()})
    return {name: count for name, count in summary.items() if count}


def describe(net: nn.Module, input_shape: tuple[int, int, int] | None = None) -> Description:
    """Count a network; with an input shape, also run it once (without gradients) on the device of its weights.

    Args:
        net: left as it was.
        input_shape: (C, H, W) of one image; None: parameters only.
    """
    parameters = list(net.parameters())
    total = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    if input_shape is None:
        return Description(type(net).__name__, total, trainable)
    was_training = net.training
    counter = FlopCounterMode(display=False)
    try:
        net.eval()
        with torch.no_grad(), counter:
            out = net(parameters[0].new_zeros(1, *input_shape))
    finally:
        net.train(was_training)
    out = as_outputs(out)["sr"]
    macs = counter.get_total_flops() // 2
    return Description(type(net).__name__, total, trainable, macs, tuple(input_shape), tuple(out.shape[1:]))

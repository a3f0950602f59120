"""A training step whose weights are rounded to bf16 once a step and not in every pass: 40 % fewer launches, equal bits.

An experiment for measurements, not an option of a training: one process, no accumulation, no compile. On a CPU it takes
as long as the plain step (docs/results/speed.md), so a GPU has to say whether it is worth its place in the models.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call

from tgsr.models.base import RestorationModel, Trained


class RoundedWeights(nn.Module):
    """The network with bf16 copies of what autocast would round: weights of convolutions and linear layers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "net", net)  # not a submodule: its weights stay the model's
        names = {id(p): name for name, p in net.named_parameters()}
        layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        self.weights = [p for m in layers for p in m.parameters(recurse=False)]
        self.copies = [p.detach().bfloat16().requires_grad_() for p in self.weights]
        self._by_name = dict(zip([names[id(p)] for p in self.weights], self.copies, strict=True))

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        return functional_call(self.net, self._by_name, (lq,))

    def hand_over(self) -> None:
        """The copies' gradients to the weights, in fp32."""
        for weight, copy in zip(self.weights, self.copies, strict=True):
            weight.grad = torch.empty_like(weight)
            assert copy.grad is not None
        torch._foreach_copy_([p.grad for p in self.weights], [c.grad for c in self.copies])
        for copy in self.copies:
            copy.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """The copies from the weights, after these have changed."""
        torch._foreach_copy_(self.copies, self.weights)


def round_once(model: RestorationModel) -> RoundedWeights:
    """Let the generator of a model in bf16 train with copies; they are refreshed after each of its updates."""
    part = model.trained()["g"]
    rounded = RoundedWeights(part.net)
    backward, update = model.precision.backward, model._update

    def backward_and_hand_over(loss: torch.Tensor) -> None:
        backward(loss)
        if all(copy.grad is not None for copy in rounded.copies):  # not the discriminator's
            rounded.hand_over()

    def update_and_refresh(trained: Trained, flags: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = update(trained, flags)
        if trained is part:
            rounded.refresh()
        return found

    part.forward = rounded
    model.precision.backward = backward_and_hand_over  # type: ignore[method-assign]
    model._update = update_and_refresh  # type: ignore[method-assign]
    return rounded

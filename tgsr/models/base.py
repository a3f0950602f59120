"""RestorationModel: networks, losses, optimisers and EMA of one training, without degradation, data or files."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.spectral_norm import SpectralNorm

from tgsr.data.batch import Batch
from tgsr.models.ema import EMA
from tgsr.models.precision import Precision
from tgsr.models.schedulers import warmup_factor
from tgsr.tasks.weighting import LossWeighting
from tgsr.utils.rng import seed63

_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
BUFFERS_STAY: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}
"""Argument of DistributedDataParallel that keeps the ranks' buffers apart: torch 2.13 renamed it and warns of the old
one. Under the new name the ranks start with the buffers of rank 0."""


@dataclass(frozen=True)
class StepResult:
    """What one training step showed; everything detached and still on the device.

    Attributes:
        losses: name -> `(B,)` weighted loss of each sample, over all micro batches.
        total: `(B,)` sum of the generator losses.
        task_ids: `(B,)` int64.
        scalars: name -> 0-d tensor (gradient norm, discriminator parts).
        bad: `(K,)` float, > 0 where the check named in `checks` failed on any rank.
        checks: names of the K checks: the losses, then the gradients.
    """

    losses: Mapping[str, torch.Tensor]
    total: torch.Tensor
    task_ids: torch.Tensor
    scalars: Mapping[str, torch.Tensor] = field(default_factory=dict)
    bad: torch.Tensor | None = None
    checks: tuple[str, ...] = ()


@dataclass
class ModelParts:
    """What both models need besides their own networks and losses.

    Attributes:
        device: of all networks.
        precision: of forward and backward.
        weighting: reduces per-sample losses to the loss that is minimised.
        seed: the run's seed; `rank` keeps the ranks' dropout apart.
        world_size: > 1 wraps the networks in DistributedDataParallel.
        group: of these ranks; None: the default group.
        channels_last: memory format of weights and images.
        compile: torch.compile the forward pass (of a network without spectral norm, see `_has_spectral_norm`).
        clip_grad_norm: largest gradient norm, None: no clipping.
        ema_decay: 0: no EMA.
        warmup_iter: linear warm-up of the learning rate.
        find_unused_parameters: passed to DistributedDataParallel.
    """

    device: torch.device
    precision: Precision
    weighting: LossWeighting
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    group: torch.distributed.ProcessGroup | None = None
    channels_last: bool = True
    compile: bool = False
    clip_grad_norm: float | None = None
    ema_decay: float = 0.0
    warmup_iter: int = -1
    find_unused_parameters: bool = False


@dataclass
class Trained:
    """A network with what trains it.

    Attributes:
        net: the bare network, whose state is saved.
        forward: the network as called in training: wrapped for several ranks, compiled.
        optimizer, base_lr: its optimiser and the learning rate of the option file.
        lr_at: `(iteration, base_lr) -> lr`.
    """

    net: nn.Module
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    base_lr: float
    lr_at: Callable[[int, float], float]

    def set_lr(self, iteration: int, warmup_iter: int) -> float:
        """The learning rate of `iteration` (counted from 0); a function of the iteration alone."""
        factor = warmup_factor(iteration, warmup_iter)
        lr = self.lr_at(iteration, self.base_lr) if factor == 1 else self.base_lr * factor
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr


class RestorationModel(ABC):
    """One generator and what trains it.

    The order of calls is `step`, `step`, ...; `restore` may come between. State goes in and out through
    `state_dict`, `load_state_dict` and `reset`; weights alone through `net_g` and `ema_g`.
    """

    def __init__(self, net_g: nn.Module, parts: ModelParts) -> None:
        self.parts = parts
        self.device, self.precision = parts.device, parts.precision
        self.net_g = self._place(net_g)
        self.ema_g = EMA(self.net_g, parts.ema_decay) if parts.ema_decay > 0 else None

    @abstractmethod
    def step(self, batches: Sequence[Batch], iteration: int) -> StepResult:
        """One optimiser step of every network.

        Args:
            batches: micro batches on the device with `lq` and the targets; their gradients are averaged.
            iteration: counted from 0; decides learning rate and torch's random state.
        """

    @abstractmethod
    def trained(self) -> dict[str, Trained]:
        """The networks that `step` trains: `g`, and `d` in an adversarial model. Empty in a model for testing."""

    @property
    def learning_rate(self) -> float:
        """Of the generator, in the last step."""
        return self.trained()["g"].optimizer.param_groups[0]["lr"]

    def restore(self, lq: torch.Tensor) -> torch.Tensor:
        """`(B, 3, h, w)` -> `(B, 3, H, W)` float32, with the EMA weights where there are any; not clamped."""
        net = self.net_g if self.ema_g is None else self.ema_g.module
        modes = [(m, m.training) for m in net.modules()]
        net.eval()
        try:
            return self.precision.restore(net, lq, channels_last=self.parts.channels_last)
        finally:
            for module, was_training in modes:
                module.training = was_training

    def state_dict(self) -> dict[str, Any]:
        """All that training changes; tensors and primitives only. Tensors are the live ones, not copies."""
        state: dict[str, Any] = {"scaler": self.precision.state_dict(), "nets": {}, "optimizers": {}}
        for name, part in self.trained().items():
            state["nets"][name] = part.net.state_dict()
            state["optimizers"][name] = part.optimizer.state_dict()
        if self.ema_g is not None:
            state["ema_g"] = self.ema_g.module.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`, in place."""
        for name, part in self.trained().items():
            part.net.load_state_dict(state["nets"][name])
            saved, own = state["optimizers"][name], part.optimizer.state_dict()
            groups = [  # the averages are the state's, betas and decay the options', as the learning rate is
                {**group, "params": old["params"]}
                for group, old in zip(own["param_groups"], saved["param_groups"], strict=True)
            ]
            part.optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
        if self.ema_g is not None:
            self.ema_g.module.load_state_dict(state.get("ema_g", state["nets"].get("g", {})))
        self.precision.load_state_dict(state["scaler"])

    def reset(self, weights: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Start again from `{"g": state, "d": state}` with fresh optimisers, without building anything anew."""
        for name, part in self.trained().items():
            part.net.load_state_dict(weights[name])
            part.optimizer.state.clear()
        if self.ema_g is not None:
            self.ema_g.module.load_state_dict(self.net_g.state_dict())

    def _place(self, net: nn.Module) -> nn.Module:
        return self.precision.place(net, channels_last=self.parts.channels_last)

    def _train_form(self, net: nn.Module) -> nn.Module:
        """The network as called in training."""
        net.train()
        if self.parts.compile and not _has_spectral_norm(net):
            net = torch.compile(net)  # type: ignore[assignment]
        if self.parts.world_size > 1:
            # Buffers are either equal on all ranks by construction (spectral norm) or saved from rank 0 (batch norm).
            net = DistributedDataParallel(
                net,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                process_group=self.parts.group,
                **BUFFERS_STAY,
                find_unused_parameters=self.parts.find_unused_parameters,
            )
        return net

    def _reseed(self, iteration: int) -> None:
        """Torch's own random state (dropout, drop path) from the iteration, so that no checkpoint has to hold it."""
        torch.manual_seed(seed63(self.parts.seed, "model", iteration, self.parts.rank))

    def _exchange(self, part: Trained, *, sync: bool) -> AbstractContextManager[None]:
        """Around forward, losses and backward of one micro batch: ranks exchange gradients only where `sync`.

        The forward belongs inside: it is there that DistributedDataParallel decides for the backward.
        """
        return nullcontext() if sync else getattr(part.forward, "no_sync", nullcontext)()

    def _update(self, part: Trained, flags: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Clip, check and step.

        Args:
            flags: `(K,)` float, > 0 where a loss was not finite on this rank.

        Returns:
            The flags of all ranks with one more for the gradients, `(K + 1,)`, and the gradient norm before clipping.
        """
        self.precision.unscale(part.optimizer)
        parameters = [p for p in part.net.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])  # type: ignore[misc]
        if self.parts.clip_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.parts.clip_grad_norm, norm)
        # In fp16 an infinite gradient is the loss scale's business, not an accident.
        bad_norm = torch.zeros_like(norm) if self.precision.mode == "fp16" else (~torch.isfinite(norm)).float()
        flags = torch.cat([flags, bad_norm.reshape(1)])
        if self.parts.world_size > 1:
            torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX, group=self.parts.group)
        self.precision.step(part.optimizer, flags.max())
        return flags, norm


def _has_spectral_norm(net: nn.Module) -> bool:
    """Whether the network changes its own buffers in every pass in a way that the backward pass looks at.

    A discriminator has two passes, real and restored, before one backward pass. Uncompiled, spectral norm copies its
    vectors for that; torch's compiler drops the copies and then refuses the backward pass.
    """
    return any(isinstance(h, SpectralNorm) for m in net.modules() for h in m._forward_pre_hooks.values()) or any(
        type(m).__name__ == "_SpectralNorm" for m in net.modules()
    )


def not_finite(values: Iterable[torch.Tensor]) -> torch.Tensor:
    """`(K,)` float: 1 where any element of the k-th tensor is NaN or infinite."""
    return torch.stack([(~torch.isfinite(v)).any().float() for v in values])

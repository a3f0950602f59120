"""torch's optimisers under their own names, with arguments that the option checker can read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import Registry

OPTIMIZERS = Registry("optimizer")

Params = Iterable[torch.Tensor] | Iterable[dict[str, Any]]
Fused = Literal["auto"] | bool

FUSED_DEVICES = ("cuda", "cpu")


def _groups(params: Params, lr: float, betas: tuple[float, float] = (0.0, 0.0)) -> list[dict[str, Any]]:
    """Parameter groups, after checking what torch would report without the place.

    Parameters that need no gradient are left out.
    """
    if lr < 0:
        raise ConfigError(f"lr is {lr}", remedy="choose a learning rate >= 0")
    if not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"betas are {list(betas)}", remedy="choose both in [0, 1), e.g. [0.9, 0.99]")
    groups: list[dict[str, Any]] = [g if isinstance(g, dict) else {"params": [g]} for g in params]
    if groups and all(len(g) == 1 for g in groups):
        groups = [{"params": [p for g in groups for p in g["params"]]}]
    groups = [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in groups]
    if not any(g["params"] for g in groups):
        raise ConfigError("the optimizer has nothing to train", remedy="no parameter of the network needs a gradient")
    return groups


def _fused(groups: list[dict[str, Any]], fused: Fused) -> bool | None:
    """Whether to use the one-kernel step: `auto` takes it where torch has it, else leaves the choice to torch."""
    if fused != "auto":
        return fused
    params = [p for g in groups for p in g["params"]]
    return True if all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in params) else None


@OPTIMIZERS.register("Adam")
def adam(
    params: Params,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    fused: Fused = "auto",
) -> Optimizer:
    """Adam.

    Args:
        params: parameters or parameter groups.
        lr: base learning rate.
        betas: decay of the averages of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: L2 penalty, added to the gradient.
        amsgrad: use the largest average of squares so far.
        fused: one kernel for all parameters; auto: where the device has it.
    """
    groups = _groups(params, lr, betas)
    return torch.optim.Adam(groups, lr, betas, eps, weight_decay, amsgrad=amsgrad, fused=_fused(groups, fused))


@OPTIMIZERS.register("AdamW")
def adamw(
    params: Params,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    fused: Fused = "auto",
) -> Optimizer:
    """Adam with decoupled weight decay.

    Args:
        params: parameters or parameter groups.
        lr: base learning rate.
        betas: decay of the averages of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: share of the weights, times lr, taken away at each step.
        amsgrad: use the largest average of squares so far.
        fused: one kernel for all parameters; auto: where the device has it.
    """
    groups = _groups(params, lr, betas)
    return torch.optim.AdamW(groups, lr, betas, eps, weight_decay, amsgrad=amsgrad, fused=_fused(groups, fused))


@OPTIMIZERS.register("SGD")
def sgd(
    params: Params,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    fused: Fused = "auto",
) -> Optimizer:
    """Stochastic gradient descent.

    Args:
        params: parameters or parameter groups.
        lr: base learning rate.
        momentum: decay of the gradient's running sum.
        dampening: share of the gradient kept out of that sum.
        weight_decay: L2 penalty, added to the gradient.
        nesterov: Nesterov's momentum.
        fused: one kernel for all parameters; auto: where the device has it.
    """
    groups = _groups(params, lr)
    if momentum and fused is True:
        raise ConfigError("fused SGD takes no momentum here", remedy="set fused: auto")
    # Where the first step is skipped as not finite, torch's kernel leaves the momentum with whatever was in memory.
    use_fused = None if momentum else _fused(groups, fused)
    return torch.optim.SGD(groups, lr, momentum, dampening, weight_decay, nesterov, fused=use_fused)


@OPTIMIZERS.register("Adagrad")
def adagrad(
    params: Params, *, lr: float, lr_decay: float = 0.0, eps: float = 1e-10, weight_decay: float = 0.0
) -> Optimizer:
    """Adagrad.

    Args:
        params: parameters or parameter groups.
        lr: base learning rate.
        lr_decay: lr is divided by 1 + step * lr_decay.
        eps: added to the denominator.
        weight_decay: L2 penalty, added to the gradient.
    """
    return torch.optim.Adagrad(_groups(params, lr), lr, lr_decay, weight_decay, eps=eps)


@OPTIMIZERS.register("Adamax")
def adamax(
    params: Params,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Adam with the infinity norm.

    Args:
        params: parameters or parameter groups.
        lr: base learning rate.
        betas: decay of the average of the gradient and of its running maximum.
        eps: added to the denominator.
        weight_decay: L2 penalty, added to the gradient.
    """
    return torch.optim.Adamax(_groups(params, lr, betas), lr, betas, eps, weight_decay)


@OPTIMIZERS.register("NAdam")
def nadam(
    params: Params,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
) -> Optimizer:
    """Adam with Nesterov's momentum.

    Args:
        params: parameters or parameter groups.
        lr: base learning rate.
        betas: decay of the averages of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: L2 penalty, or AdamW's decay with `decoupled_weight_decay`.
        momentum_decay: of the momentum schedule.
        decoupled_weight_decay: AdamW's form of weight decay.
    """
    return torch.optim.NAdam(
        _groups(params, lr, betas),
        lr,
        betas,
        eps,
        weight_decay,
        momentum_decay,
        decoupled_weight_decay=decoupled_weight_decay,
    )


@OPTIMIZERS.register("RAdam")
def radam(
    params: Params,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
) -> Optimizer:
    """Adam with a rectified start.

    Args:
        params: parameters or parameter groups.
        lr: base learning rate.
        betas: decay of the averages of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: L2 penalty, or AdamW's decay with `decoupled_weight_decay`.
        decoupled_weight_decay: AdamW's form of weight decay.
    """
    groups = _groups(params, lr, betas)
    return torch.optim.RAdam(groups, lr, betas, eps, weight_decay, decoupled_weight_decay=decoupled_weight_decay)


@OPTIMIZERS.register("RMSprop")
def rmsprop(
    params: Params,
    *,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
) -> Optimizer:
    """RMSprop.

    Args:
        params: parameters or parameter groups.
        lr: base learning rate.
        alpha: decay of the average of the squared gradient.
        eps: added to the denominator.
        weight_decay: L2 penalty, added to the gradient.
        momentum: decay of the gradient's running sum.
        centered: divide by an estimate of the standard deviation instead of the root mean square.
    """
    return torch.optim.RMSprop(_groups(params, lr), lr, alpha, eps, weight_decay, momentum, centered)

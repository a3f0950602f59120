"""torch's optimisers under their own names, with arguments that the option checker can read: torch's own signatures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import Registry

OPTIMIZERS = Registry("optimizer")

Params = Iterable[torch.Tensor] | Iterable[dict[str, Any]]
Fused = Literal["auto"] | bool

FUSED_DEVICES = ("cuda", "cpu")
NAMES = ("Adam", "AdamW", "SGD", "Adagrad", "Adamax", "NAdam", "RAdam", "RMSprop")
HIDDEN = ("params", "foreach", "maximize", "capturable", "differentiable", "initial_accumulator_value")
"""Arguments of torch's that are no business of an option file."""
ARGUMENTS = {
    "lr": "base learning rate.",
    "betas": "decay of the averages of the gradient and of its square.",
    "eps": "added to the denominator.",
    "weight_decay": "L2 penalty added to the gradient; of AdamW the share of the weights, times lr, that a step takes.",
    "decoupled_weight_decay": "AdamW's form of weight decay.",
    "amsgrad": "use the largest average of squares so far.",
    "fused": "one kernel for all parameters; auto: where the device has it.",
    "momentum": "decay of the gradient's running sum.",
    "dampening": "share of the gradient kept out of that sum.",
    "nesterov": "Nesterov's momentum.",
    "lr_decay": "lr is divided by 1 + step * lr_decay.",
    "momentum_decay": "of the momentum schedule.",
    "alpha": "decay of the average of the squared gradient.",
    "centered": "divide by an estimate of the standard deviation instead of the root mean square.",
}


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


def _parameters(cls: type[Optimizer]) -> dict[str, inspect.Parameter]:
    """What an option file may set: torch's arguments, of the types of their defaults; `lr` has to be given."""
    keyword, found = inspect.Parameter.KEYWORD_ONLY, {}
    for name, p in inspect.signature(cls).parameters.items():
        if name in HIDDEN or (name == "fused" and cls not in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)):
            continue
        kind = {"betas": tuple[float, float], "fused": Fused}.get(name, bool if isinstance(p.default, bool) else float)
        default = {"lr": p.empty, "fused": "auto", "betas": p.default}.get(name, p.default)
        default = float(default) if kind is float and default is not p.empty else default
        found[name] = inspect.Parameter(name, keyword, default=default, annotation=kind)
    return found


def _factory(cls: type[Optimizer]) -> Callable[..., Optimizer]:
    """`factory(params, *, lr, ...)`: the optimiser over the parameters that need a gradient."""
    known = _parameters(cls)

    def make(params: Params, **given: Any) -> Optimizer:
        arguments = {name: given.get(name, p.default) for name, p in known.items()}
        groups = _groups(params, arguments["lr"], arguments.get("betas", (0.0, 0.0)))
        if "fused" in known:
            momentum = arguments.get("momentum")
            if momentum and arguments["fused"] is True:
                raise ConfigError(f"fused {cls.__name__} takes no momentum here", remedy="set fused: auto")
            # Where the first step is skipped as not finite, torch's kernel leaves the momentum with whatever was in
            # memory.
            arguments["fused"] = None if momentum else _fused(groups, arguments["fused"])
        return cls(groups, **arguments)

    first = inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Params)
    make.__signature__ = inspect.Signature([first, *known.values()])  # type: ignore[attr-defined]
    make.__annotations__ = {"params": Params, **{name: p.annotation for name, p in known.items()}}
    lines = [f"    {name}: {ARGUMENTS.get(name, 'see torch.')}" for name in known]
    make.__doc__ = "\n".join([f"{cls.__name__} of torch.", "", "Args:", "    params: parameters or groups.", *lines])
    make.__name__ = cls.__name__
    return make


for _name in NAMES:
    OPTIMIZERS.register(_name)(_factory(getattr(torch.optim, _name)))

"""What the host of a GPU would have to launch: operations of a degraded batch and of a step, counted on the CPU.

Views cost no launch and are not counted; a fused or foreach call counts once. A host read (`.item()`, a shape that
depends on data) makes the host wait until the GPU has done all it was given.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from degradation import basicsr_feed, load_crops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from comparison.measure import Settings
from comparison.steps import Case, our_step, their_step
from tgsr.degradations.second_order import SecondOrderSpace
from tgsr.degradations.second_order_rows import final_kernels, stage_kernels

BATCH, DRAWS = 12, 5
CASES = [
    Case("msrresnet", 16, 1, 16),
    Case("rrdbnet", 23, 1, 16),
    Case("rrdbnet", 23, 1, 16, is_adversarial=True),
]  # operations do not depend on batch and patch
_FREE = {
    "detach", "lift_fresh", "alias", "_unsafe_view", "empty", "empty_strided", "empty_like", "new_empty",
    "new_empty_strided",
}  # fmt: skip
_READS = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select", "equal"}


class Counter(TorchDispatchMode):
    """Counts launches and host reads."""

    counts_reads = True

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _READS or (name.startswith("index") and _has_mask(args)):
            self.reads += Counter.counts_reads
        if name not in _FREE and not func.is_view:
            self.launches += 1
        return func(*args, **(kwargs or {}))


class CountBytes(TorchDispatchMode):
    """Bytes that operations read and write if none of them stays in a cache; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in _FREE and not func.is_view:
            self.operations += 1
            tensors = [t for t in tree_leaves((args, kwargs or {}, out)) if isinstance(t, torch.Tensor)]
            self.total += sum(t.numel() * t.element_size() for t in tensors)
        return out


def _has_mask(args: Any) -> bool:
    return any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for a in args if isinstance(a, list) for i in a)


def count(function: Callable[[], Any]) -> tuple[int, int]:
    """Launches and host reads of one call."""
    with Counter() as counter:
        function()
    return counter.launches, counter.reads


def _as_on_a_gpu(optimizer: torch.optim.Optimizer) -> None:
    """Adam as torch runs it there: many tensors a call; its own count of steps is on the host, reading it is free."""
    for group in optimizer.param_groups:
        group["foreach"] = True
    step = optimizer.step

    def quietly() -> None:
        Counter.counts_reads = False
        step()
        Counter.counts_reads = True

    optimizer.step = quietly  # type: ignore[method-assign]


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Launches and host reads of both sides."""
    rows = _degradations(settings)
    for case in CASES:
        theirs, their = their_step(case)
        for optimizer in theirs.optimizers:
            _as_on_a_gpu(optimizer)
        ours = our_step(case, "bf16", theirs)
        for i in range(2):  # Adam's averages, caches
            their(i), ours(i)
        name = case.name.split(",")[0]
        rows += _rows(f"step of {name}", count(lambda: their(2)), count(lambda: ours(2)))  # noqa: B023
    return rows


def _degradations(settings: Settings) -> list[dict[str, Any]]:
    """Means over several draws of twelve crops."""
    crops = load_crops(settings.images, BATCH, 0)
    space, rng = SecondOrderSpace(), np.random.default_rng(0)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    feed = basicsr_feed(sharpen=lambda x: x)
    generator = torch.Generator().manual_seed(0)
    theirs, ours = [], []
    for _ in range(DRAWS + 1):
        drawn = space.draw(rng.random((BATCH, space.num_uniforms)))
        kernels = [stage_kernels(drawn, 1), stage_kernels(drawn, 2), final_kernels(drawn)]
        named = dict(zip(("kernel1", "kernel2", "sinc_kernel"), map(torch.from_numpy, kernels), strict=True))
        theirs.append(count(lambda: feed({"gt": crops, **named})))  # noqa: B023
        ours.append(count(lambda: space.pipeline.apply(crops, drawn, generator, backend="torch")))  # noqa: B023
    means = (tuple(np.mean(side[1:], axis=0)) for side in (theirs, ours))  # the first one fills caches
    return _rows(f"degradation of {BATCH} crops, without sharpening", *means)


def _rows(name: str, theirs: Any, ours: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{name}: {what}", "unit": "", "basicsr": float(a), "ours": float(b), "rounds": 1,
            **({"ratio": a / b} if b else {}),
        }
        for what, a, b in zip(("operations", "host reads"), theirs, ours, strict=True)
    ]  # fmt: skip

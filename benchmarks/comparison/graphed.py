"""A training step as one CUDA graph: what the host would launch kernel by kernel, it launches at once.

An experiment for measurements, not an option of a training: the learning rate is that of the capture, torch's random
state (dropout, drop path) is not reseeded, and batches must keep their shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tgsr.data.batch import Batch
from tgsr.models.base import RestorationModel, StepResult


class GraphedStep:
    """`model.step` for batches of one shape, captured once and then replayed.

    On a CPU nothing is captured and every step runs as it is, on the same buffers, which is how it is tested.

    Args:
        model: of one process, without accumulation.
        batch: of the shapes that all batches will have.
        warm_up: steps before the capture; they change the weights, so call `reset` or take it as training.
    """

    def __init__(self, model: RestorationModel, batch: Batch, *, warm_up: int = 3) -> None:
        self._model, self._step = model, model.step
        model._reseed = lambda iteration: None  # type: ignore[method-assign] - a seed cannot be set in a capture
        self._inputs = _tensors(batch)
        self._static = Batch(**{name: t.clone() for name, t in self._inputs.items()})
        self._start = [t.detach().clone() for t in self._state()]
        self._graph: torch.cuda.CUDAGraph | None = None
        if model.device.type == "cuda":
            self._capture(warm_up)
        else:
            for i in range(warm_up):
                self._step([self._static], i)

    def __call__(self, batches: Sequence[Batch], iteration: int) -> StepResult:
        """One step; the result's tensors are overwritten by the next one."""
        (batch,) = batches
        given = _tensors(batch)
        wrong = [n for n, t in self._inputs.items() if n not in given or given[n].shape != t.shape]
        if wrong:
            raise ValueError(f"a captured step takes batches of one shape; {', '.join(wrong)} differ")
        torch._foreach_copy_(list(_tensors(self._static).values()), [given[n] for n in self._inputs])
        if self._graph is None:
            return self._step([self._static], iteration)
        self._graph.replay()
        return self._result

    def reset(self) -> None:
        """The weights of the beginning and an optimiser that has seen nothing, in the memory that the graph knows."""
        with torch.no_grad():
            torch._foreach_copy_(self._state(), self._start)
            averages = [
                t for part in self._model.trained().values() for s in part.optimizer.state.values() for t in s.values()
            ]
            torch._foreach_zero_([t for t in averages if isinstance(t, torch.Tensor)])

    def _state(self) -> list[torch.Tensor]:
        nets = [part.net for part in self._model.trained().values()]
        nets += [] if self._model.ema_g is None else [self._model.ema_g.module]
        return [t for net in nets for t in net.state_dict().values()]

    def _capture(self, warm_up: int) -> None:
        for part in self._model.trained().values():
            for group in part.optimizer.param_groups:
                group["capturable"] = True
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for i in range(warm_up):
                self._step([self._static], i)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = self._step([self._static], warm_up)


def _tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """What a step reads."""
    found = {name: getattr(batch, name) for name in ("gt", "lq", "gt_usm", "task_ids")}
    return {name: t for name, t in found.items() if t is not None}

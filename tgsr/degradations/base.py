"""The two contracts of this room: a space draws parameters, a pipeline applies them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
import torch

from tgsr.degradations.params import DegradationParams
from tgsr.utils.registry import Registry

Backend = Literal["auto", "cpu", "torch"]

PIPELINES = Registry("degradation pipeline", package="tgsr.degradations")
SPACES = Registry("degradation space", package="tgsr.degradations")


class Pipeline(ABC):
    """Applies parameters to images; holds no state and draws nothing that is not in the parameters.

    Attributes:
        name: the registered name; `Space.pipeline` refers to it.
        scale: output height and width are `H // scale`, `W // scale`.
    """

    name: str
    scale: int

    @abstractmethod
    def apply(
        self,
        gt: torch.Tensor,
        params: DegradationParams,
        generator: torch.Generator | None = None,
        backend: Backend = "auto",
    ) -> torch.Tensor:
        """Degrade a batch.

        Args:
            gt: `(B, 3, H, W)` float32 RGB in [0, 1].
            params: B rows.
            generator: None draws each sample's noise from its `noise_seed` (the batch then equals the loop over its
                samples bit for bit); a generator on gt's device draws all noise from it, faster on a GPU, and the
                noise then depends on the batch.
            backend: `cpu` = one sample at a time with OpenCV and NumPy (fast in loader workers), `torch` = batched
                on gt's device without host synchronisation; `auto` = `cpu` on CPU tensors, else `torch`.

        Returns:
            `(B, 3, H // scale, W // scale)` float32 in [0, 1], multiples of 1/255.
        """

    def to_json(self) -> dict[str, Any]:
        """`{"type": registered name, **arguments}`."""
        return {"type": self.name, "scale": self.scale}


class Space(ABC):
    """A distribution over the parameters of one pipeline.

    A draw is a function of a vector of uniform numbers with one fixed place per parameter. So a sample's parameters
    depend on its own uniforms only, and restricting one range does not shift the others.

    Attributes:
        num_uniforms: D.
    """

    num_uniforms: int

    @property
    @abstractmethod
    def pipeline(self) -> Pipeline:
        """The pipeline that understands these parameters."""

    @abstractmethod
    def draw(self, uniforms: np.ndarray) -> DegradationParams:
        """Parameters for uniforms `(B, D)` in [0, 1); includes `noise_seed`."""

    @abstractmethod
    def contains(self, params: DegradationParams) -> np.ndarray:
        """(B,) bool: whether each row could have been drawn from this space."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """`{"type": registered name, ...}` that `space_from_json` turns back into an equal space."""


def space_from_json(data: dict[str, Any]) -> Space:
    """Inverse of `Space.to_json`: builds the registered type with the remaining entries as arguments."""
    arguments = dict(data)
    return SPACES.get(arguments.pop("type"))(**arguments)


@SPACES.register("Point")
class PointSpace(Space):
    """One fixed set of parameters; only the noise realisation varies (spec of a TGSR task)."""

    num_uniforms = 1

    def __init__(self, *, pipeline: dict[str, Any], params: dict[str, Any]) -> None:
        """Args:
        pipeline: `{"type": registered name, **arguments}`.
        params: one row of the pipeline's parameters; a `noise_seed` in it is ignored.
        """
        arguments = dict(pipeline)
        self._pipeline_json = dict(pipeline)
        self._pipeline: Pipeline = PIPELINES.get(arguments.pop("type"))(**arguments)
        self.params = {k: v for k, v in params.items() if k != "noise_seed"}

    @property
    def pipeline(self) -> Pipeline:
        return self._pipeline

    def draw(self, uniforms: np.ndarray) -> DegradationParams:
        columns = {name: np.full(len(uniforms), value) for name, value in self.params.items()}
        return DegradationParams({**columns, "noise_seed": noise_seed(uniforms[:, 0])})

    def contains(self, params: DegradationParams) -> np.ndarray:
        same = np.ones(params.batch_size, dtype=bool)
        for name, value in self.params.items():
            column = params.get(name)
            if column is not None:
                same &= (column == value) | (np.isnan(column.astype(float)) & (value != value))
            elif value == value and value != -1:
                same &= False
        return same

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "Point",
            "pipeline": self._pipeline_json,
            "params": {k: v for k, v in self.params.items() if v == v},
        }


def noise_seed(uniform: np.ndarray) -> np.ndarray:
    """Noise seeds (int64, 53 significant bits) from uniforms in [0, 1)."""
    return (uniform * 2.0**53).astype(np.int64)

"""What a named degradation is: a few parameters with ranges, and one operator in two forms."""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import Registry

NAMED = Registry("named degradation", package="tgsr.degradations.named")


@dataclass(frozen=True)
class Range:
    """One parameter, uniform on `[low, high]`.

    Attributes:
        name: column of `DegradationParams`, with its unit.
        low, high: bounds; integers include both.
        step: 0 for real numbers; for integers the distance between values (2 from an odd low: odd numbers).
    """

    name: str
    low: float
    high: float
    step: int = 0

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ConfigError(f"{self.name}: the range [{self.low}, {self.high}] is empty", remedy="give low <= high")

    def draw(self, uniforms: np.ndarray) -> np.ndarray:
        """(B,) values for uniforms (B,) in [0, 1)."""
        if not self.step:
            return self.low + uniforms * (self.high - self.low)
        num_values = int(self.high - self.low) // self.step + 1
        return int(self.low) + self.step * np.floor(uniforms * num_values).astype(np.int64)

    def contains(self, values: np.ndarray) -> np.ndarray:
        """(B,) bool; an unused mark (NaN) is outside."""
        inside = (values >= self.low) & (values <= self.high)
        return inside & ((values - self.low) % self.step == 0) if self.step else inside


def value_range(
    name: str, bounds: Sequence[float], *, within: tuple[float, float] = (-math.inf, math.inf), step: int = 0
) -> Range:
    """A `Range` from the `[low, high]` of an option file.

    Args:
        name: of the parameter.
        bounds: of the option file.
        within: values with which the operator has a meaning.
        step: see `Range`; 2: odd numbers only.

    Raises:
        ConfigError: no pair of the right kind, or values without a meaning.
    """
    if len(bounds) != 2:
        raise ConfigError(f"{name}: {list(bounds)} is not a pair [low, high]")
    low, high = within
    if not all(low <= b <= high for b in bounds):
        raise ConfigError(f"{name}: {list(bounds)} is outside [{low:g}, {high:g}]", remedy="give values within")
    if step and any(b != int(b) for b in bounds):
        raise ConfigError(f"{name}: {list(bounds)} must be whole numbers")
    if step == 2 and int(bounds[0]) % 2 == 0:
        raise ConfigError(f"{name}: {list(bounds)} must begin with an odd number")
    return Range(name, bounds[0], bounds[1], step)


class NamedDegradation(ABC):
    """A degradation with a name. An instance holds ranges; applying needs only the drawn numbers.

    To add one: a file in this folder with a class registered in `NAMED`, keyword-only ranges in `__init__` which set
    `self.parameters`, and the two forms of the operator. Neither clips nor rounds: the pipeline does.

    Attributes:
        name: registered name; also the task's name.
        parameters: what is drawn, one uniform each.
    """

    name: ClassVar[str]
    parameters: tuple[Range, ...]

    @staticmethod
    @abstractmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        """CPU form.

        Args:
            image: `(H, W, 3)` float32 RGB in [0, 1]; must not be changed in place.
            row: the sample's parameters.
            noise: randomness of this one sample.

        Returns:
            `(H, W, 3)` float32, not yet clipped.
        """

    @staticmethod
    @abstractmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        """Device form of `apply_image` for `(B, 3, H, W)` and B rows."""


def code_of(name: str) -> int:
    """The number that stands for a degradation's name in a parameter column: the same in every version of tgsr."""
    return zlib.crc32(name.encode())


def degradation_of(code: int) -> type[NamedDegradation]:
    """Inverse of `code_of` over all registered degradations."""
    for name in NAMED.names():
        if code_of(name) == code:
            return NAMED.get(name)
    raise ConfigError(
        f"no named degradation has the code {code}", remedy="register the one these parameters were drawn from"
    )

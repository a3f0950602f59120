"""Random fields of a batch: from each sample's own seed, or from one generator of the device."""

from __future__ import annotations

import numpy as np
import torch

from tgsr.utils.rng import generator as numpy_generator


class NoiseSource:
    """Draws fields for B samples.

    With `generator=None` sample i's fields depend on `seeds[i]` and on the order of its own draws alone, so a batch
    equals the loop over its samples bit for bit. With a generator one call draws the whole batch.

    Args:
        seeds: (B,) `noise_seed` of each sample.
        device: where the fields are made.
        generator: generator on that device, or None.
    """

    def __init__(self, seeds: np.ndarray, device: torch.device, generator: torch.Generator | None = None) -> None:
        self.seeds, self.device, self._shared = seeds, device, generator
        self._own: list[torch.Generator] | None = None

    def normal(self, shape: tuple[int, int, int]) -> torch.Tensor:
        """`(B, *shape)` standard normal."""
        return self._draw(torch.randn, shape)

    def uniform(self, shape: tuple[int, int, int]) -> torch.Tensor:
        """`(B, *shape)` uniform on [0, 1)."""
        return self._draw(torch.rand, shape)

    def poisson(self, rates: torch.Tensor) -> torch.Tensor:
        """Counts with the given rates `(B, C, H, W)`."""
        if self._shared is not None:
            return torch.poisson(rates, generator=self._shared)
        return torch.stack([torch.poisson(r, generator=g) for r, g in zip(rates, self._generators(), strict=True)])

    def host(self, sample: int) -> np.random.Generator:
        """A NumPy generator of one sample's seed, for things that are laid out on the host (lines, streaks)."""
        return numpy_generator(int(self.seeds[sample]), "named-degradation")

    def _generators(self) -> list[torch.Generator]:
        if self._own is None:
            self._own = [torch.Generator(self.device).manual_seed(int(s)) for s in self.seeds]
        return self._own

    def _draw(self, function, shape: tuple[int, int, int]) -> torch.Tensor:  # noqa: ANN001
        if self._shared is not None:
            return function((len(self.seeds), *shape), generator=self._shared, device=self.device)
        return torch.stack([function(shape, generator=g, device=self.device) for g in self._generators()])

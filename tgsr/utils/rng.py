"""Random streams derived from names and numbers, never from order: the root of exact resume.

Every draw of a run comes from `(seed, stream, *keys)`, where the keys are the iteration and the sample's position in
the global batch. Nothing has to be saved or skipped to resume, and the number of ranks or workers changes nothing.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, stream: str, *keys: int | str) -> int:
    """A 128-bit integer that depends on every argument; the same on every machine and Python version."""
    text = "\x1f".join([str(seed), stream, *map(str, keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def seed63(seed: int, stream: str, *keys: int | str) -> int:
    """Like `derive`, cut to 63 bits: what torch.Generator.manual_seed and int64 tensors accept."""
    return derive(seed, stream, *keys) & (2**63 - 1)


def generator(seed: int, stream: str, *keys: int | str) -> np.random.Generator:
    """A NumPy generator (counter-based Philox, about 10 us to make) for one stream."""
    return np.random.Generator(np.random.Philox(key=derive(seed, stream, *keys)))


class Shuffles:
    """Endless orders of `count` items: every item once before any comes again, in an order of its own each time.

    An order is drawn once, however many places of it are asked for.

    Args:
        count: of the items.
        seed, stream: name the random stream; the number of the order is its last key.
    """

    def __init__(self, count: int, *, seed: int, stream: str) -> None:
        self.count, self.seed, self.stream = count, seed, stream
        self._number, self._order = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, place: int) -> int:
        """The item at a place of the endless sequence."""
        number, inside = divmod(place, self.count)
        if number != self._number:
            self._number, self._order = number, generator(self.seed, self.stream, number).permutation(self.count)
        return int(self._order[inside])

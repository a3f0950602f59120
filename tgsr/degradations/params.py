"""The drawn numbers of a batch of degradations: one column per parameter, one row per sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Scalar = int | float


class DegradationParams(Mapping[str, np.ndarray]):
    """Columns `name -> (B,)` of int64 or float64, held on the host, immutable by convention.

    They stay NumPy arrays on the CPU on purpose: shapes and branches of a pipeline depend on them, and reading them
    back from a GPU would make it wait. A column that a row does not use holds NaN (float) or -1 (int).
    `noise_seed` (int64, 63 bits) is in every set: with it an LQ image can be made again, bit for bit, unless a
    generator of the whole batch made its noise (`Pipeline.apply`).

    Args:
        columns: equal-length 1-D arrays.
    """

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        lengths = {len(v) for v in columns.values()}
        if len(lengths) != 1:
            raise ValueError(f"columns of different lengths: {sorted(lengths)}")
        self._columns = {
            k: np.asarray(v, dtype=np.int64 if np.asarray(v).dtype.kind in "iub" else np.float64)
            for k, v in columns.items()
        }
        self._size = lengths.pop()

    @property
    def batch_size(self) -> int:
        return self._size

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def row(self, i: int) -> dict[str, Scalar]:
        """Row `i` as Python numbers, unused ones (NaN, -1) kept."""
        return {k: v[i].item() for k, v in self._columns.items()}

    def take(self, rows: Sequence[int] | np.ndarray | slice) -> DegradationParams:
        """The given rows, in the given order."""
        return DegradationParams({k: v[rows] for k, v in self._columns.items()})

    def replace(self, **columns: np.ndarray) -> DegradationParams:
        """A copy in which some columns are replaced or added."""
        return DegradationParams({**self._columns, **columns})

    @staticmethod
    def cat(parts: Sequence[DegradationParams]) -> DegradationParams:
        """All rows of `parts`; a column that one part lacks is filled with the unused mark."""
        names = list(parts[0])
        if all(list(p) == names for p in parts) and all(p[n].dtype == parts[0][n].dtype for p in parts for n in names):
            return DegradationParams({n: np.concatenate([p[n] for p in parts]) for n in names})
        return DegradationParams.from_rows([p.row(i) for p in parts for i in range(p.batch_size)])

    @staticmethod
    def from_rows(rows: Sequence[Mapping[str, Scalar]]) -> DegradationParams:
        """Build from `row()` dictionaries, which may have different keys."""
        names = list(dict.fromkeys(k for r in rows for k in r))
        columns = {}
        for name in names:
            values = [r.get(name) for r in rows]
            is_int = all(isinstance(v, (int, np.integer)) for v in values if v is not None)
            unused: Scalar = -1 if is_int else math.nan
            columns[name] = np.array(
                [unused if v is None else v for v in values], dtype=np.int64 if is_int else np.float64
            )
        return DegradationParams(columns)

    def to_json(self) -> list[dict[str, Any]]:
        """One dictionary per sample; floats keep all their bits (Python's repr), NaN is left out."""
        return [
            {k: v for k, v in self.row(i).items() if not (isinstance(v, float) and math.isnan(v))}
            for i in range(self._size)
        ]

    @staticmethod
    def from_json(rows: Sequence[Mapping[str, Any]]) -> DegradationParams:
        """Inverse of `to_json` up to columns that no row uses."""
        return DegradationParams.from_rows(rows)

    def __repr__(self) -> str:
        return f"DegradationParams(batch_size={self._size}, columns={sorted(self._columns)})"

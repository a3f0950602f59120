"""What the paper reports, from `printed.yml`: Table 1 (PSNR on DIV2K-Valid), Table 2 (distances and drops), groups.

Names are those of the project. Columns follow `tgsr.degradations.named.GRIDS_DEGRADATIONS`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tgsr.study.printed import printed

_PRINTED = printed("grids")
PAPER_DELTA_DB: float = _PRINTED.stated["delta_db"]
PAPER_GROUPS = tuple(tuple(g) for g in _PRINTED.stated["groups"])
PAPER_OOD_DISTANCE: float = _PRINTED.stated["ood_distance"]
"""Divergence (log scale) above which section 6.2 calls an image out of distribution."""

TABLE1 = {label: {c.split("/")[1]: v for c, v in row.items()} for label, row in _PRINTED.table(1).rows.items()}


@dataclass(frozen=True)
class Table2Row:
    """One mix model of Table 2 (Restormer).

    Attributes:
        experiment: as numbered in print; 1 to 4 and 7 by deep degradation representations, 5 by VGG, 6 by SIFT.
        descriptor: whose distance is printed: `descriptor`, `vgg` or `sift`.
        is_near: the row of higher similarity.
        group: degradations.
        distance: mean distance.
        mixed: PSNR of the mix model in the order of `group`.
    """

    experiment: int
    descriptor: str
    is_near: bool
    group: tuple[str, ...]
    distance: float
    mixed: tuple[float, ...]

    @property
    def drop(self) -> float:
        """Maximum drop (equation 4) from the printed PSNRs."""
        return max(self._drops())

    @property
    def mean_drop(self) -> float:
        """Average drop, the number that the paper compares."""
        return sum(self._drops()) / len(self.group)

    def _drops(self) -> list[float]:
        single = TABLE1["Restormer single"]
        return [single[d] - p for d, p in zip(self.group, self.mixed, strict=True)]


TABLE2 = tuple(
    Table2Row(m["experiment"], m["descriptor"], m["near"], tuple(m["group"]), m["distance"], tuple(m["mixed"]))
    for m in _PRINTED.stated["mix_models"]
)
"""All of Table 2. The last two values of the last row are swapped in print, which says 32.86 and 33.88: here not."""

TABLE2_DISTANCES = tuple(
    (row.group, row.distance) for row in sorted(TABLE2, key=lambda r: r.distance) if row.descriptor == "descriptor"
)
"""Groups with their mean distance by deep degradation representations, nearest first."""


def paper_drop(group: Collection[str]) -> float | None:
    """Maximum drop that the paper measured for a group, in Table 2 or for its own groups in Table 1; else None."""
    for row in TABLE2:
        if set(row.group) == set(group):
            return row.drop
    if any(set(g) == set(group) for g in PAPER_GROUPS):
        return max(TABLE1["Restormer single"][d] - TABLE1["Restormer grouped"][d] for d in group)
    return None

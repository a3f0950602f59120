"""What the paper reports: Table 1 (PSNR on DIV2K-Valid), Table 2 (group distances and drops), section 5.3 (groups).

Names are those of the project. Columns follow `tgsr.degradations.named.GRIDS_DEGRADATIONS`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tgsr.degradations.named import GRIDS_DEGRADATIONS

PAPER_DELTA_DB = 0.7
PAPER_GROUPS = (
    ("gaussian_blur", "motion_blur", "rl"),
    ("sr", "ringing", "defocus"),
    ("jpeg", "poisson", "inpainting"),
    ("gaussian_noise", "salt_pepper"),
)
PAPER_OOD_DISTANCE = 4.0
"""Divergence (log scale) above which section 6.2 calls an image out of distribution."""


def _row(*values: float) -> dict[str, float]:
    return dict(zip(GRIDS_DEGRADATIONS, values, strict=True))


TABLE1 = {
    "SRResNet single": _row(26.97, 25.36, 34.21, 34.62, 32.76, 40.15, 31.37, 33.06, 31.70, 30.08, 44.93),
    "SRResNet mixed": _row(25.92, 22.61, 33.34, 33.70, 30.71, 37.07, 30.83, 32.51, 30.57, 29.62, 43.79),
    "SRResNet grouped": _row(26.71, 25.09, 34.77, 35.16, 32.54, 39.95, 31.29, 33.13, 31.90, 30.22, 45.73),
    "Restormer single": _row(27.99, 31.80, 37.92, 37.42, 34.17, 41.81, 32.14, 33.83, 32.55, 30.64, 46.12),
    "Restormer mixed": _row(27.39, 26.48, 35.36, 34.10, 32.29, 38.91, 31.30, 32.96, 31.56, 29.77, 42.71),
    "Restormer grouped": _row(28.22, 31.71, 37.24, 38.68, 34.03, 41.30, 32.23, 33.88, 32.86, 30.71, 46.57),
}

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


_BLUR_TO_MOTION = ("gaussian_blur", "inpainting", "salt_pepper", "poisson", "motion_blur")
TABLE2 = (
    Table2Row(1, "descriptor", True, ("sr", "defocus"), 2.75, (39.22, 41.38)),
    Table2Row(1, "descriptor", False, ("gaussian_noise", "salt_pepper"), 3.54, (30.71, 46.57)),
    Table2Row(2, "descriptor", True, ("ringing", "rl", "defocus"), 2.20, (34.10, 37.66, 41.25)),
    Table2Row(2, "descriptor", False, ("gaussian_blur", "jpeg", "salt_pepper"), 4.33, (27.95, 31.77, 44.40)),
    Table2Row(
        3, "descriptor", True, ("ringing", "rl", "defocus", "motion_blur"), 2.52, (33.37, 36.74, 40.33, 29.66)
    ),
    Table2Row(
        3, "descriptor", False, ("gaussian_blur", "gaussian_noise", "salt_pepper", "motion_blur"), 4.10,
        (27.89, 30.28, 44.20, 26.66),
    ),
    Table2Row(
        4, "descriptor", True, ("sr", "jpeg", "ringing", "rl", "defocus"), 2.88, (38.55, 31.56, 33.96, 36.51, 41.18)
    ),
    Table2Row(4, "descriptor", False, _BLUR_TO_MOTION, 4.00, (27.77, 32.23, 45.20, 33.47, 29.22)),
    Table2Row(5, "vgg", True, ("sr", "jpeg", "poisson"), 1.79, (34.89, 31.82, 33.50)),
    Table2Row(5, "vgg", False, ("gaussian_blur", "inpainting", "poisson"), 3.43, (27.64, 31.96, 33.32)),
    Table2Row(6, "sift", True, ("sr", "jpeg", "inpainting"), 2.11, (34.84, 31.37, 31.84)),
    Table2Row(6, "sift", False, ("gaussian_blur", "ringing", "defocus"), 4.42, (27.80, 33.94, 41.15)),
    Table2Row(7, "descriptor", True, ("jpeg", "poisson", "gaussian_noise"), 3.49, (32.24, 33.88, 30.65)),
    Table2Row(7, "descriptor", False, ("jpeg", "poisson", "inpainting"), 3.61, (32.23, 33.88, 32.86)),
)  # fmt: skip
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

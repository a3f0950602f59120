"""What the paper reports: Table 1 (PSNR on DIV2K-Valid), Table 2 (group distances and drops), section 5.3 (groups).

Names are those of the project. Columns follow `tgsr.degradations.named.GRIDS_DEGRADATIONS`.
"""

from __future__ import annotations

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

TABLE2_DISTANCES = (
    (("ringing", "rl", "defocus"), 2.20),
    (("ringing", "rl", "defocus", "motion_blur"), 2.52),
    (("sr", "defocus"), 2.75),
    (("sr", "jpeg", "ringing", "rl", "defocus"), 2.88),
    (("jpeg", "poisson", "gaussian_noise"), 3.49),
    (("gaussian_noise", "salt_pepper"), 3.54),
    (("jpeg", "poisson", "inpainting"), 3.61),
    (("gaussian_blur", "inpainting", "salt_pepper", "poisson", "motion_blur"), 4.00),
    (("gaussian_blur", "gaussian_noise", "salt_pepper", "motion_blur"), 4.10),
    (("gaussian_blur", "jpeg", "salt_pepper"), 4.33),
)
"""Groups of Table 2 with their mean distance by deep degradation representations, nearest first."""

TABLE2_MIXED = {
    ("sr", "defocus"): (39.22, 41.38),
    ("gaussian_noise", "salt_pepper"): (30.71, 46.57),
    ("ringing", "rl", "defocus"): (34.10, 37.66, 41.25),
    ("gaussian_blur", "jpeg", "salt_pepper"): (27.95, 31.77, 44.40),
    ("ringing", "rl", "defocus", "motion_blur"): (33.37, 36.74, 40.33, 29.66),
    ("gaussian_blur", "gaussian_noise", "salt_pepper", "motion_blur"): (27.89, 30.28, 44.20, 26.66),
    ("sr", "jpeg", "ringing", "rl", "defocus"): (38.55, 31.56, 33.96, 36.51, 41.18),
    ("gaussian_blur", "inpainting", "salt_pepper", "poisson", "motion_blur"): (27.77, 32.23, 45.20, 33.47, 29.22),
    ("jpeg", "poisson", "gaussian_noise"): (32.24, 33.88, 30.65),
}
"""PSNR of mix models (Restormer) in Table 2, in the order of the key; {jpeg, poisson, inpainting} is left out because
its two last columns are swapped in print."""


def paper_drop(group: tuple[str, ...]) -> float:
    """Maximum drop of a group of Table 2 (equation 4), from the printed PSNRs."""
    single = TABLE1["Restormer single"]
    return max(single[d] - p for d, p in zip(group, TABLE2_MIXED[group], strict=True))

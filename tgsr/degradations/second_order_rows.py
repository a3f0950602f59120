"""What rows of second-order parameters ask for: blur kernels, sizes, and which JPEG comes when."""

from __future__ import annotations

import numpy as np

from tgsr.degradations.kernels import density_kernels, pulse_kernels, sinc_kernels
from tgsr.degradations.params import DegradationParams

RESIZE_FIRST = 0
"""Code of `final_order`: resize and sinc filter, then JPEG; any other: JPEG first."""


def stage_kernels(params: DegradationParams, stage: int) -> np.ndarray:
    """Blur kernels `(B, 21, 21)` float32 of stage 1 or 2; a unit pulse where there is no blur."""
    p = {name: params[f"kernel{stage}_{name}"] for name in ("size", "is_sinc", "omega", "type")}
    shape = (params[f"kernel{stage}_{n}"] for n in ("sigma_x", "sigma_y", "theta", "beta_g", "beta_p"))
    blurred, sinc = params[f"blur{stage}"] == 1, p["is_sinc"] == 1
    kernels = pulse_kernels(params.batch_size)
    rows = np.flatnonzero(blurred & sinc)
    if len(rows):
        kernels[rows] = sinc_kernels(p["size"][rows], p["omega"][rows])
    rows = np.flatnonzero(blurred & ~sinc)
    if len(rows):
        kernels[rows] = density_kernels(p["size"][rows], p["type"][rows], *(c[rows] for c in shape))
    return kernels.astype(np.float32)


def final_kernels(params: DegradationParams) -> np.ndarray:
    """Final sinc kernels `(B, 21, 21)` float32; a unit pulse where there is none."""
    kernels = pulse_kernels(params.batch_size)
    rows = np.flatnonzero(params["final_sinc"] == 1)
    if len(rows):
        kernels[rows] = sinc_kernels(params["final_size"][rows], params["final_omega"][rows])
    return kernels.astype(np.float32)


def resized(
    scale: int, source: tuple[int, int], stage: int, last: int, factor: float
) -> tuple[tuple[int, int], float | None]:
    """Output size of a stage's resize, and the factor that fixes its sampling positions (None: the sizes do)."""
    h, w = source
    if stage == last:
        return (max(1, int(h / scale * factor)), max(1, int(w / scale * factor))), None
    size = (int(h * factor), int(w * factor))
    return (size, factor) if min(size) else ((max(1, size[0]), max(1, size[1])), None)

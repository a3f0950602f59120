"""Named settings of the second-order space; keys are those of Real-ESRGAN's option files where it has them."""

from __future__ import annotations

import math
from typing import Any

from tgsr.degradations.kernels import KERNEL_TYPES

RESIZE_MODES = ("area", "bilinear", "bicubic")
"""In the order of their codes in `DegradationParams`."""

X4PLUS: dict[str, Any] = {
    "scale": 4,
    "second_stage": True,
    "blur_prob": 1.0,
    "blur_kernel_size": 21,
    "kernel_list": list(KERNEL_TYPES),
    "kernel_prob": [0.45, 0.25, 0.12, 0.03, 0.12, 0.03],
    "sinc_prob": 0.1,
    "blur_sigma": [0.2, 3.0],
    "betag_range": [0.5, 4.0],
    "betap_range": [1.0, 2.0],
    "rotation_range": [-math.pi, math.pi],
    "resize_prob": [0.2, 0.7, 0.1],
    "resize_range": [0.15, 1.5],
    "noise_prob": 1.0,
    "gaussian_noise_prob": 0.5,
    "noise_range": [1.0, 30.0],
    "poisson_scale_range": [0.05, 3.0],
    "gray_noise_prob": 0.4,
    "jpeg_prob": 1.0,
    "jpeg_range": [30.0, 95.0],
    "second_blur_prob": 0.8,
    "blur_kernel_size2": 21,
    "kernel_list2": list(KERNEL_TYPES),
    "kernel_prob2": [0.45, 0.25, 0.12, 0.03, 0.12, 0.03],
    "sinc_prob2": 0.1,
    "blur_sigma2": [0.2, 1.5],
    "betag_range2": [0.5, 4.0],
    "betap_range2": [1.0, 2.0],
    "rotation_range2": [-math.pi, math.pi],
    "resize_prob2": [0.3, 0.4, 0.3],
    "resize_range2": [0.3, 1.2],
    "noise_prob2": 1.0,
    "gaussian_noise_prob2": 0.5,
    "noise_range2": [1.0, 25.0],
    "poisson_scale_range2": [0.05, 2.5],
    "gray_noise_prob2": 0.4,
    "jpeg_prob2": 1.0,
    "jpeg_range2": [30.0, 95.0],
    "resize_modes": list(RESIZE_MODES),
    "final_sinc_prob": 0.8,
    "jpeg": "diffjpeg",
}


def _cdr(*, blur: str, noise: str) -> dict[str, Any]:
    """Controlled Data Rebalancing, supplement tables 6-9: ranges of blur and noise each `low`, `high` or `all`."""
    pick = {"low": 0, "high": 1, "all": 2}
    b, n = pick[blur], pick[noise]
    return {
        **X4PLUS,
        "blur_sigma": [[1.6, 2.3], [2.3, 3.0], [1.6, 3.0]][b],
        "blur_sigma2": [[0.8, 1.2], [1.2, 1.6], [0.8, 1.6]][b],
        "noise_range": [[1.0, 4.5], [4.5, 8.0], [1.0, 8.0]][n],
        "noise_range2": [[1.0, 4.0], [4.0, 7.0], [1.0, 7.0]][n],
        "poisson_scale_range": [[0.1, 0.4], [0.4, 0.7], [0.1, 0.7]][n],
        "poisson_scale_range2": [[0.1, 0.35], [0.35, 0.6], [0.1, 0.6]][n],
        "resize_prob2": [0.2, 0.7, 0.1],
        "resize_range2": [0.15, 1.5],
    }


_FIRST_ORDER = {
    **X4PLUS,
    "second_stage": False,
    "resize_prob": [0.0, 0.0, 1.0],
    "final_sinc_prob": 0.0,
}

PRESETS: dict[str, dict[str, Any]] = {
    "x4plus": X4PLUS,
    "x2plus": {**X4PLUS, "scale": 2},
    "cdr": _cdr(blur="all", noise="all"),
    "cdr_mild": _cdr(blur="low", noise="low"),
    "cdr_blur": _cdr(blur="high", noise="low"),
    "cdr_noise": _cdr(blur="low", noise="high"),
    "cdr_severe": _cdr(blur="high", noise="high"),
    "first_order": _FIRST_ORDER,
    "first_order_mild": {
        **_FIRST_ORDER,
        "kernel_list": ["iso", "aniso"],
        "kernel_prob": [0.65, 0.35],
        "sinc_prob": 0.0,
        "blur_sigma": [0.2, 1.5],
        "noise_range": [1.0, 10.0],
        "poisson_scale_range": [0.05, 1.0],
        "jpeg_range": [60.0, 95.0],
    },
    "none": {
        **_FIRST_ORDER,
        "blur_prob": 0.0,
        "noise_prob": 0.0,
        "jpeg_prob": 0.0,
        "resize_modes": ["area"],
    },
}
"""`x4plus`, `x2plus`: Real-ESRGAN. `cdr*`: the four tasks of rebalancing and the space that holds them. `first_order*`:
blur, resize by 1/scale, noise, JPEG, once. `none`: the mean over scale x scale pixels."""

"""Blur kernels as functions of their parameters: Gaussian, generalised, plateau and sinc (Real-ESRGAN, section 3)."""

from __future__ import annotations

import numpy as np
from scipy.special import j1

KERNEL_TYPES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
"""The kinds, in the order of their codes in `DegradationParams`; names are Real-ESRGAN's."""

MAX_KERNEL_SIZE = 21


def density_kernels(
    size: np.ndarray,
    kind: np.ndarray,
    sigma_x: np.ndarray,
    sigma_y: np.ndarray,
    theta: np.ndarray,
    beta_g: np.ndarray,
    beta_p: np.ndarray,
    *,
    pad_to: int = MAX_KERNEL_SIZE,
) -> np.ndarray:
    """Gaussian, generalised Gaussian and plateau kernels, zero outside their size.

    With `q = x^T Sigma^-1 x` and `Sigma = R(theta) diag(sigma_x^2, sigma_y^2) R(theta)^T` they are `exp(-q/2)`,
    `exp(-q^beta_g / 2)` and `1 / (1 + q^beta_p)`, each divided by its sum. Isotropic kinds use `sigma_x` only.

    Args:
        size: `(B,)` odd side lengths, at most `pad_to`.
        kind: `(B,)` index into `KERNEL_TYPES`.
        sigma_x, sigma_y: `(B,)` in pixels, > 0.
        theta: `(B,)` rotation in radians.
        beta_g, beta_p: `(B,)` shape exponents of the generalised and the plateau kind.
        pad_to: side of the returned kernels.

    Returns:
        `(B, pad_to, pad_to)` float64, each of sum 1.
    """
    kind = np.asarray(kind)
    isotropic = kind % 2 == 0
    angle = np.where(isotropic, 0.0, theta)[:, None, None]
    width_x = np.asarray(sigma_x, dtype=np.float64)[:, None, None]
    width_y = np.where(isotropic, sigma_x, sigma_y)[:, None, None]
    y, x, inside = _grid(size, pad_to)
    cos, sin = np.cos(angle), np.sin(angle)
    q = ((cos * x + sin * y) / width_x) ** 2 + ((cos * y - sin * x) / width_y) ** 2
    exponent = np.select([kind // 2 == 1, kind // 2 == 2], [beta_g, beta_p], 1.0)[:, None, None]
    power = q**exponent
    plateau = (kind // 2 == 2)[:, None, None]
    values = np.where(plateau, 1 / (1 + power), np.exp(-0.5 * power)) * inside
    return values / values.sum((1, 2), keepdims=True)


def sinc_kernels(size: np.ndarray, omega: np.ndarray, *, pad_to: int = MAX_KERNEL_SIZE) -> np.ndarray:
    """Circular low-pass kernels `omega J1(omega r) / (2 pi r)`, zero outside their size, divided by their sum.

    Args:
        size: `(B,)` odd side lengths, at most `pad_to`.
        omega: `(B,)` cut-off frequency in radians per pixel, up to pi.
        pad_to: side of the returned kernels.

    Returns:
        `(B, pad_to, pad_to)` float64, each of sum 1.
    """
    y, x, inside = _grid(size, pad_to)
    omega = np.asarray(omega, dtype=np.float64)[:, None, None]
    radius = np.sqrt(x * x + y * y)
    centre = pad_to // 2
    radius[:, centre, centre] = 1.0
    values = omega * j1(omega * radius) / (2 * np.pi * radius)
    values[:, centre, centre] = omega[:, 0, 0] ** 2 / (4 * np.pi)
    values *= inside
    return values / values.sum((1, 2), keepdims=True)


def pulse_kernels(num: int, *, pad_to: int = MAX_KERNEL_SIZE) -> np.ndarray:
    """Kernels `(num, pad_to, pad_to)` that change nothing."""
    kernels = np.zeros((num, pad_to, pad_to))
    kernels[:, pad_to // 2, pad_to // 2] = 1.0
    return kernels


def single_kernel(
    size: int,
    *,
    kind: str = "iso",
    sigma_x: float = 1.0,
    sigma_y: float | None = None,
    theta: float = 0.0,
    beta: float = 1.0,
    omega: float | None = None,
) -> np.ndarray:
    """One kernel `(size, size)`: of `kind`, or the sinc kernel where `omega` is given."""
    if omega is not None:
        return sinc_kernels(np.array([size]), np.array([omega]), pad_to=size)[0]
    row = [sigma_x, sigma_x if sigma_y is None else sigma_y, theta, beta, beta]
    columns = [np.array([size]), np.array([KERNEL_TYPES.index(kind)]), *(np.array([v]) for v in row)]
    return density_kernels(*columns, pad_to=size)[0]


def _grid(size: np.ndarray, pad_to: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integer offsets y, x `(B, pad_to, pad_to)` (x along columns) and the mask of the square of each size."""
    offset = np.arange(pad_to, dtype=np.float64) - pad_to // 2
    half = (np.asarray(size) // 2)[:, None, None]
    shape = (len(half), pad_to, pad_to)
    y = np.broadcast_to(offset[:, None], shape)
    x = np.broadcast_to(offset[None, :], shape)
    return y, x, (np.abs(y) <= half) & (np.abs(x) <= half)

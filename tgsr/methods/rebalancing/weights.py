"""Task weights from PSNR distances, sample counts from weights (Controlled Data Rebalancing, eq. 3, 4, 12, A.2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tgsr.utils.errors import ConfigError, DataError


def performance_distance(single: Mapping[str, float], multi: Mapping[str, float]) -> dict[str, float]:
    """DP of equation 3: what a network of the task alone is better than the shared one, in dB.

    Args:
        single: task -> PSNR of its own network.
        multi: task -> PSNR of the shared network on the same images.

    Raises:
        DataError: a task without a value, or a distance that is not finite.
    """
    missing = sorted(single.keys() ^ multi.keys())
    if missing:
        raise DataError(f"no PSNR distance for task '{missing[0]}': only one of the two networks was measured on it")
    distances = {name: single[name] - multi[name] for name in single}
    for name, value in distances.items():
        if not np.isfinite(value):
            raise DataError(
                f"the PSNR distance of task '{name}' is {value} ({single[name]} dB alone, {multi[name]} dB shared)",
                remedy="a PSNR of inf means equal images; check the validation set and the metric",
            )
    return distances


def difficulty_weights(distances: Sequence[float] | np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """Equation 4, normalised: `exp(DP / temperature)` over its sum; computed without overflow.

    Args:
        distances: `(n,)` DP in dB.
        temperature: in dB; 1 is the paper's, a smaller one sharpens.

    Returns:
        `(n,)` float64, sum 1.

    Raises:
        ConfigError: temperature not positive.
        DataError: a distance, or its quotient, is not finite.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature is {temperature}", remedy="give a positive number of dB; 1 is the paper's")
    with np.errstate(over="ignore"):
        scaled = np.asarray(distances, dtype=np.float64) / temperature
    if not np.isfinite(scaled).all():
        raise DataError(
            f"weights overflow: DP / temperature is {scaled.tolist()} at temperature {temperature:g}",
            remedy="raise the temperature, or look for a PSNR that is not finite",
        )
    raised = np.exp(scaled - scaled.max())
    return raised / raised.sum()


def sample_counts(weights: Sequence[float] | np.ndarray, num: int) -> np.ndarray:
    """Equation 12 in whole samples: `N w_i` rounded by the method of the largest remainder.

    Args:
        weights: `(n,)`, not negative, sum 1.
        num: N.

    Returns:
        `(n,)` int64, sum exactly `num`, each less than 1 from `N w_i`; ties go to the earlier task.
    """
    shares = np.asarray(weights, dtype=np.float64) * num
    counts = np.floor(shares + 1e-9).astype(np.int64)
    order = np.argsort(-(shares - counts), kind="stable")
    counts[order[: num - int(counts.sum())]] += 1
    return counts


def hybrid_split(weights: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hybrid of A.2.2: tasks above 1/n are re-sampled, the others share what is left alike and are re-weighted.

    The paper leaves each low task its probability 1/n. Together with `w_h` of the high ones that is more than 1
    whenever weights differ, so it is no distribution; ours gives the low tasks the mass that is left, `W_L`, in equal
    parts `W_L / |L|`. The estimate stays unbiased.

    Args:
        weights: `(n,)`, sum 1.

    Returns:
        `(n,)` probabilities, sum 1, and `(n,)` factors of the losses; their product is the weights.
    """
    w = np.asarray(weights, dtype=np.float64)
    low = w < 1 / len(w)
    probabilities, factors = w.copy(), np.ones_like(w)
    if low.any() and w[low].sum() > 0:
        probabilities[low] = w[low].sum() / low.sum()
        factors[low] = w[low] / probabilities[low]
    return probabilities, factors

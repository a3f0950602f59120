"""The performance indicator of TGSR (equations 3 and 4), its standard error, and the rule that ends a sweep early.

Two ways to measure the ratio of equation 3 differ in where its denominator comes from. In `paper` mode the numerator
is the training loss of the last iterations, each on new patches, and the denominator the pre-trained network's loss on
the task (`Denominator` says on which patches). In `paired` mode both are the loss on the same fixed probe patches, so
the difficulty of the patches cancels and only the task's own improvement is left.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from tgsr.utils.errors import ConfigError

Mode = Literal["paired", "paper"]
Denominator = Literal["fresh", "first", "same"]
"""Patches of L(tau, theta) in `paper` mode: `fresh` = batches drawn for it alone; `first` = the first training batch,
which costs nothing; `same` = the very batches of the numerator."""


class Indicator(NamedTuple):
    """One task's average performance indicator.

    Attributes:
        z: loss after fine-tuning on the task over loss before; low = much to gain = unsatisfactory. NaN: diverged.
        se: its standard error over patches.
    """

    z: float
    se: float


def performance_indicator(loss_after: np.ndarray, loss_before: np.ndarray | float) -> np.ndarray:
    """z_i^t = L_i(tau_i, theta_i^t) / L_i(tau_i, theta), equation 3.

    Args:
        loss_after: any shape, losses under the fine-tuned parameters.
        loss_before: broadcastable, losses under the pre-trained parameters.
    """
    return np.asarray(loss_after, dtype=np.float64) / np.asarray(loss_before, dtype=np.float64)


def average_indicator(curve: np.ndarray, window: int) -> float:
    """Mean of z_i^t over the last `window` steps, equation 4.

    The equation divides a sum of t_e - t_s + 1 terms by t_e - t_s; the mean is meant.

    Args:
        curve: `(t,)` values of z_i^t, oldest first.
    """
    if not 1 <= window <= len(curve):
        raise ConfigError(f"window is {window}, there are {len(curve)} values of z", remedy="use 1 <= window <= iters")
    return float(np.mean(curve[-window:]))


def paired_indicator(after: np.ndarray, before: np.ndarray) -> Indicator:
    """Ratio of the mean losses on the same patches, with the standard error of a ratio of paired means.

    Args:
        after: `(P,)` or `(K, P)` losses of the P probe patches after fine-tuning; K probes are averaged (equation 4).
        before: `(P,)` losses of the same patches under the pre-trained parameters.
    """
    after, before = np.atleast_2d(np.asarray(after, dtype=np.float64)), np.asarray(before, dtype=np.float64)
    patches = len(before)
    if patches == 0 or after.shape[1] != patches:
        raise ValueError(f"{after.shape[1]} losses after, {patches} before; both need the same patches")
    if not (np.isfinite(after).all() and np.isfinite(before).all() and before.mean() > 0):
        return Indicator(float("nan"), float("nan"))
    mean_after = after.mean(axis=0)
    z = float(mean_after.mean() / before.mean())
    if patches == 1:
        return Indicator(z, float("nan"))
    residual = mean_after - z * before
    return Indicator(z, float(np.sqrt(residual.var(ddof=1) / patches) / before.mean()))


def paper_indicator(
    training: np.ndarray, before: np.ndarray, *, window: int, denominator: Denominator = "fresh"
) -> Indicator:
    """The text's definition: training losses of the last iterations over the pre-trained network's loss.

    Args:
        training: `(iters,)` mean loss of each training batch under the parameters before that step.
        before: the pre-trained network's batch losses: `(n,)` fresh ones, `(1,)` the first batch's, or `(window,)`
            those of the last training batches, as `denominator` says.
        window: iterations of the average (10 in the paper).
    """
    training, before = np.asarray(training, dtype=np.float64), np.asarray(before, dtype=np.float64)
    if not 1 <= window <= len(training):
        raise ConfigError(f"window is {window} but iters is {len(training)}", remedy="use 1 <= window <= iters")
    last = training[-window:]
    if denominator == "same":
        return paired_indicator(last, before)
    if not (np.isfinite(last).all() and np.isfinite(before).all() and before.mean() > 0):
        return Indicator(float("nan"), float("nan"))
    z = average_indicator(performance_indicator(training, before.mean()), window)
    if window < 2 or len(before) < 2:
        return Indicator(z, float("nan"))
    relative = last.var(ddof=1) / window / last.mean() ** 2 + before.var(ddof=1) / len(before) / before.mean() ** 2
    return Indicator(z, float(z * np.sqrt(relative)))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the last axis; equal values share their mean rank."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim > 1:
        return np.stack([ranks(row) for row in values])
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    return (upper - (counts - 1) / 2)[place]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation over the entries that are finite in both; NaN when fewer than three or all equal."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3:
        return float("nan")
    x, y = ranks(a[both]), ranks(b[both])
    if x.std() == 0 or y.std() == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def spearman_interval(
    a: np.ndarray, b: np.ndarray, *, rng: np.random.Generator, share: float = 0.8, num: int = 1000
) -> tuple[float, float]:
    """Bootstrap interval of `spearman` over the tasks that holds `share` of the resampled values."""
    a, b = np.asarray(a), np.asarray(b)
    values = [spearman(a[i], b[i]) for i in rng.integers(0, len(a), size=(num, len(a)))]
    if np.isnan(values).all():
        return float("nan"), float("nan")
    tail = (1 - share) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


def reliability(z: np.ndarray, se: np.ndarray) -> float:
    """Share of the variance of z between tasks that is not measurement error: 1 - mean(se^2) / var(z), at least 0."""
    z, se = np.asarray(z, dtype=np.float64), np.asarray(se, dtype=np.float64)
    good = np.isfinite(z) & np.isfinite(se)
    if good.sum() < 3 or z[good].var(ddof=1) == 0:
        return float("nan")
    return float(max(0.0, 1 - np.mean(se[good] ** 2) / z[good].var(ddof=1)))


def stable_iteration(curves: np.ndarray, probe_iters: list[int], *, agreement: float = 0.95) -> int:
    """The first probed iteration after which the ranking of the tasks no longer changes: the stopping rule.

    Args:
        curves: `(T, K)` z of T pilot tasks at each of the K probed iterations; rows with NaN are left out.
        probe_iters: `(K,)` ascending.
        agreement: least rank correlation with every later probe.

    Returns:
        One of `probe_iters`; the last one when no earlier ranking is stable.
    """
    curves = np.asarray(curves, dtype=np.float64)
    if curves.ndim != 2 or curves.shape[1] != len(probe_iters) or sorted(set(probe_iters)) != list(probe_iters):
        raise ValueError(f"curves {curves.shape} do not fit the probed iterations {probe_iters}")
    curves = curves[np.isfinite(curves).all(axis=1)]
    for k, iteration in enumerate(probe_iters[:-1]):
        if all(spearman(curves[:, k], curves[:, later]) >= agreement for later in range(k + 1, len(probe_iters))):
            return iteration
    return probe_iters[-1]

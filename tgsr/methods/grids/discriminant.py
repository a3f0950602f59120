"""The named alternative to the paper's selection rule: a linear discriminant on statistics of feature differences.

Not from the paper. The GGD of one image's patches mixes degradation with content; differences of neighbouring features
carry less content, and a discriminant learns from reference images which of their statistics tell degradations apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import logsumexp

from tgsr.methods.grids.ggd import shape_from_ratio
from tgsr.utils.errors import DataError

FLOOR = 1e-12


def difference_statistics(features: torch.Tensor) -> np.ndarray:
    """Shape and log spread of horizontal and vertical feature differences.

    Args:
        features: `(C, h, w)` of one image.

    Returns:
        (4 C,) float64: for each direction GGD shape and log standard deviation of every channel.
    """
    if min(features.shape[1:]) < 2:
        raise DataError("a feature map of one pixel has no differences", remedy="give a larger image")
    parts = []
    for difference in (features[:, :, 1:] - features[:, :, :-1], features[:, 1:] - features[:, :-1]):
        flat = difference.flatten(1).double()
        square = flat.square().mean(1).cpu().numpy() + FLOOR
        mean = flat.abs().mean(1).cpu().numpy() + FLOOR
        parts += [shape_from_ratio(square / mean**2), np.log(square) / 2]
    return np.concatenate(parts)


@dataclass(frozen=True)
class Discriminant:
    """Gaussian classes with one shared covariance (LDA), a calibrated confidence and out-of-distribution score.

    Attributes:
        shift, scale: (D,) standardisation of the statistics.
        means: (K, D) class means.
        precision: (D, D) inverse of the shrunk within-class covariance.
        temperature: divides the log posteriors; fitted on images left out.
        distances: sorted squared Mahalanobis distances of reference images to their nearest class, each from a fit
            without them: the scale of the out-of-distribution score.
        own: (N, 2) class of each reference image and its distance to that class, from a fit without it; empty in files
            of earlier versions.
    """

    shift: np.ndarray
    scale: np.ndarray
    means: np.ndarray
    precision: np.ndarray
    temperature: float
    distances: np.ndarray
    own: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))

    def distances_to(self, statistics: np.ndarray) -> np.ndarray:
        """(N, K) squared Mahalanobis distances of (N, D) statistics to every class."""
        standard = (np.atleast_2d(statistics) - self.shift) / self.scale
        apart = standard[:, None, :] - self.means[None]
        return np.einsum("nkd,de,nke->nk", apart, self.precision, apart, optimize=True)

    def posteriors(self, statistics: np.ndarray) -> np.ndarray:
        """(N, K) calibrated class probabilities, equal priors."""
        return softmax(-self.distances_to(statistics) / 2 / self.temperature)

    def tail(self, distance: float) -> float:
        """Share of reference images, left out of the fit, that are at least as far from every class: a p-value."""
        above = len(self.distances) - np.searchsorted(self.distances, distance)
        return float((above + 1) / (len(self.distances) + 1))

    def p_values(self, distances: np.ndarray) -> np.ndarray:
        """(K,) for each class, the share of its own reference images, left out of the fit, that are at least as far
        from it. The largest one tells a known image from an unknown: at most a share of q of the known ones of every
        class has it below q (where there are at least 1 / q reference images).

        Args:
            distances: (K,) squared distances of one image.
        """
        found = np.empty(len(distances))
        for k, distance in enumerate(distances):
            null = self.own[self.own[:, 0] == k, 1]
            found[k] = (np.sum(null >= distance) + 1) / (len(null) + 1)
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """For `router.npz`."""
        return {
            "shift": self.shift, "scale": self.scale, "means": self.means, "precision": self.precision,
            "temperature": np.array(self.temperature), "distances": self.distances, "own": self.own,
        }  # fmt: skip

    @staticmethod
    def from_arrays(arrays: dict[str, np.ndarray]) -> Discriminant:
        """Inverse of `arrays`."""
        return Discriminant(**{**arrays, "temperature": float(arrays["temperature"])})


def softmax(logits: np.ndarray) -> np.ndarray:
    """Row-wise."""
    return np.exp(logits - logsumexp(logits, axis=1, keepdims=True))


def fit_discriminant(
    statistics: np.ndarray,
    labels: np.ndarray,
    images: Sequence[int] | np.ndarray,
    *,
    shrinkage: float = 0.1,
    num_folds: int = 5,
) -> Discriminant:
    """Fit, then calibrate by cross-validation over images.

    Args:
        statistics: (N, D).
        labels: (N,) class of each row, 0 ... K - 1.
        images: (N,) the image each row was made from; an image is left out as a whole.
        shrinkage: share of the scaled identity in the within-class covariance.
        num_folds: of the calibration.

    Raises:
        DataError: too few images for every fold.
    """
    labels, images = np.asarray(labels), np.asarray(images)
    names = np.unique(images)
    if len(names) < 3:
        raise DataError(f"{len(names)} reference images are too few for a router", remedy="give at least 6")
    fold_of = {name: i % min(num_folds, len(names)) for i, name in enumerate(names)}
    folds = np.array([fold_of[i] for i in images])
    left_out = np.empty((len(labels), labels.max() + 1))
    for fold in np.unique(folds):
        inside = folds != fold
        part = _fit(statistics[inside], labels[inside], shrinkage)
        left_out[folds == fold] = part.distances_to(statistics[folds == fold])
    whole = _fit(statistics, labels, shrinkage)
    return Discriminant(
        whole.shift, whole.scale, whole.means, whole.precision,
        temperature=_temperature(-left_out / 2, labels),
        distances=np.sort(left_out.min(axis=1)),
        own=np.stack([labels, left_out[np.arange(len(labels)), labels]], axis=1),
    )  # fmt: skip


def _fit(statistics: np.ndarray, labels: np.ndarray, shrinkage: float) -> Discriminant:
    num_classes = int(labels.max()) + 1
    raw_means = np.stack([statistics[labels == k].mean(axis=0) for k in range(num_classes)])
    within = statistics - raw_means[labels]
    scale = within.std(axis=0) + 1e-6
    shift = statistics.mean(axis=0)
    standard = within / scale
    covariance = standard.T @ standard / max(1, len(labels) - num_classes)
    size = len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / size * np.eye(size)
    return Discriminant(
        shift, scale, (raw_means - shift) / scale, np.linalg.inv(shrunk), temperature=1.0, distances=np.empty(0)
    )


def _temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the best log-likelihood on images left out."""
    grid = np.geomspace(0.25, 64, 97)

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]))

    return float(grid[int(np.argmin([loss(t) for t in grid]))])

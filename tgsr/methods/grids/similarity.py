"""The degradation similarity matrix S (GRIDS, 4.2): patches -> representations -> GGDs -> divergences."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tgsr.degradations.params import DegradationParams
from tgsr.methods.grids.descriptor import Descriptor
from tgsr.methods.grids.ggd import GGD, fit_ggd, kl_divergence, log_distance, pca_projections
from tgsr.tasks.task import Task
from tgsr.utils.errors import DataError
from tgsr.utils.files import check_schema, write_atomic

VERSION = 1
DEFAULT_COMPONENTS = 300
_COLUMNS = 65536


def degrade_patches(patches: torch.Tensor, task: Task, *, seed: int) -> torch.Tensor:
    """Every patch with its own parameters and noise of one task.

    Args:
        patches: `(P, 3, H, W)`.
        task: whose space is drawn from.
        seed: with the task's name and the patch's place the key of its draw.
    """
    params = DegradationParams.cat([task.draw(seed, "similarity", task.name, i) for i in range(len(patches))])
    return task.space.pipeline.apply(patches, params)


def feature_gram(
    descriptor: Descriptor, patches: torch.Tensor, *, batch_size: int = 16, memory_mb: int = 6000
) -> np.ndarray:
    """(P, P) float64 inner products of the centred feature vectors of P patches.

    The Gram form of PCA: with P much smaller than the feature length F, the P x P matrix is all that is needed.
    Features stay in memory, or in a temporary file when P * F floats exceed `memory_mb`, and are summed in column
    chunks.
    """
    num_patches = len(patches)
    store: Any = None
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, num_patches, batch_size):
            rows = descriptor.features(patches[start : start + batch_size]).flatten(1)
            if store is None:
                store = _feature_store(num_patches, rows, memory_mb, folder)
            store[start : start + len(rows)] = rows
        gram = centred_gram(store, patches.device)
        del store
    return gram


def centred_gram(rows: torch.Tensor, device: torch.device) -> np.ndarray:
    """(P, P) inner products of the rows of `(P, F)` after their mean is taken off; computed on `device` in chunks.

    Exactly 0 where the rows are alike but for rounding (patches of a constant image).
    """
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=device)
    energy = torch.zeros((), dtype=torch.float64, device=device)
    for first in range(0, rows.shape[1], _COLUMNS):
        chunk = rows[:, first : first + _COLUMNS].to(device)
        mean = chunk.mean(0)
        energy += mean.square().sum().double() * len(rows)
        chunk = chunk - mean
        gram += (chunk @ chunk.T).double()
    return (gram * (gram.trace() > 1e-12 * energy)).cpu().numpy()


def _feature_store(num_patches: int, rows: torch.Tensor, memory_mb: int, folder: str) -> torch.Tensor:
    shape = (num_patches, rows.shape[1])
    if num_patches * rows.shape[1] * 4 <= memory_mb * 2**20:
        return torch.empty(shape, device=rows.device)
    return torch.from_numpy(np.memmap(Path(folder) / "features", dtype=np.float32, mode="w+", shape=shape))


def represent(
    descriptor: Descriptor, patches: torch.Tensor, *, num_components: int = DEFAULT_COMPONENTS, batch_size: int = 16
) -> GGD:
    """GGD of the representations of one set of patches (section 4.2): PCA of its own, outliers, moment matching.

    Args:
        descriptor: the feature extractor.
        patches: `(P, 3, H, W)` of one degradation.
        num_components: k, cut to P - 1. Two GGDs can be compared only when P and k were the same for both.
        batch_size: patches per forward pass.

    Raises:
        DataError: all patches look alike (a constant image).
    """
    if len(patches) < 2:
        raise DataError(f"{len(patches)} patches are too few for a distribution", remedy="give at least 50")
    gram = feature_gram(descriptor, patches, batch_size=batch_size)
    return fit_ggd(pca_projections(gram, num_components))


@dataclass(frozen=True)
class Similarity:
    """The matrix S and what it was made from; `similarity.npz`.

    Attributes:
        names: degradations, n of them.
        ggds: their GGDs.
        kl: (n, n) D_KL(i || j), raw.
        about: descriptor, patches, components, seed, options.
    """

    names: tuple[str, ...]
    ggds: tuple[GGD, ...]
    kl: np.ndarray
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def matrix(self) -> np.ndarray:
        """S: `(ell(KL_ij) + ell(KL_ji)) / 2`, a distance (small = similar); the diagonal is 0."""
        logs = log_distance(self.kl)
        both = (logs + logs.T) / 2
        np.fill_diagonal(both, 0.0)
        return both

    def index(self, name: str) -> int:
        try:
            return self.names.index(name)
        except ValueError:
            raise DataError(
                f"the similarity matrix has no degradation '{name}'",
                remedy=f"it knows {', '.join(self.names)}; measure it again with the new one",
            ) from None

    def mean_distance(self, group: Iterable[str]) -> float:
        """Mean of S over the pairs of a group, the `dist` of Table 2; 0 for a single degradation."""
        places = [self.index(n) for n in group]
        pairs = [self.matrix[i, j] for i, j in combinations(places, 2)]
        return float(np.mean(pairs)) if pairs else 0.0

    def save(self, path: Path | str) -> None:
        """Write `similarity.npz`, whole or not at all."""
        arrays = {
            "names": np.array(self.names),
            "alpha": np.array([g.alpha for g in self.ggds]),
            "sigma": np.array([g.sigma for g in self.ggds]),
            "kl": self.kl,
            "matrix": self.matrix,
            "about": np.array(json.dumps({"schema": "tgsr.similarity", "version": VERSION, **self.about})),
        }
        write_atomic(path, lambda f: np.savez(f, **arrays))

    @staticmethod
    def load(path: Path | str) -> Similarity:
        """Inverse of `save`; DataError when absent or of another schema."""
        try:
            with np.load(path) as data:
                arrays = {k: data[k] for k in data.files}
            about = json.loads(str(arrays["about"]))
        except FileNotFoundError:
            raise DataError("no such file", place=str(path), remedy="run the similarity stage first") from None
        except (ValueError, KeyError, OSError) as error:
            raise DataError(f"not a similarity matrix: {error}", place=str(path)) from None
        check_schema(about, "tgsr.similarity", path, version=VERSION)
        about = {k: v for k, v in about.items() if k not in ("schema", "version")}
        ggds = tuple(GGD(float(a), float(s)) for a, s in zip(arrays["alpha"], arrays["sigma"], strict=True))
        return Similarity(tuple(arrays["names"].tolist()), ggds, arrays["kl"], about)


def similarity_of(names: Sequence[str], ggds: Sequence[GGD], about: dict[str, Any] | None = None) -> Similarity:
    """All pairwise divergences of the given distributions."""
    kl = np.array([[kl_divergence(p, q) for q in ggds] for p in ggds])
    return Similarity(tuple(names), tuple(ggds), kl, dict(about or {}))


def measure_similarity(
    descriptor: Descriptor,
    patches: torch.Tensor,
    tasks: Sequence[Task],
    *,
    num_components: int = DEFAULT_COMPONENTS,
    batch_size: int = 16,
    seed: int = 0,
    about: dict[str, Any] | None = None,
) -> Similarity:
    """Section 4.2 from end to end: degrade the same clean patches by every task, represent, compare.

    Args:
        descriptor: the feature extractor.
        patches: `(P, 3, H, W)` clean patches on the device that shall work.
        tasks: the degradations.
        num_components: see `represent`.
        batch_size: patches per forward pass.
        seed: of the degradations.
        about: kept in the artefact.
    """
    ggds = [
        represent(
            descriptor,
            degrade_patches(patches, task, seed=seed),
            num_components=num_components,
            batch_size=batch_size,
        )
        for task in tasks
    ]
    facts = {"num_patches": len(patches), "patch_px": patches.shape[-1], "num_components": num_components, "seed": seed}
    return similarity_of([t.name for t in tasks], ggds, {**facts, "descriptor": descriptor.to_json(), **(about or {})})

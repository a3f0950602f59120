"""Adaptive model selection and generalisation prediction for one image (GRIDS, 5.2)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from tgsr.methods.grids.descriptor import Descriptor, descriptor_from_json
from tgsr.methods.grids.discriminant import Discriminant, difference_statistics
from tgsr.methods.grids.ggd import (
    GGD,
    fit_ggd,
    kl_divergence,
    log_distance,
    mean_ggd,
    pca_projections,
)
from tgsr.methods.grids.similarity import centred_gram
from tgsr.utils.errors import DataError
from tgsr.utils.files import check_schema, read_json, undamaged, write_atomic, write_json
from tgsr.utils.image_io import to_tensor
from tgsr.utils.registry import did_you_mean
from tgsr.utils.rng import generator

VERSION = 1
Rule = Literal["divergence", "discriminant"]


@dataclass(frozen=True)
class RoutedGroup:
    """One group of the partition and the network for it.

    Attributes:
        name: shown to people.
        members: its degradations.
        weights: file of the network's weights, relative to the router file where possible; empty when there is none.
    """

    name: str
    members: tuple[str, ...]
    weights: str = ""


@dataclass(frozen=True)
class Choice:
    """What the router says about one image.

    Attributes:
        group: index of the chosen group.
        name: its name.
        weights: its weights, resolved against the router's folder; None when the router knows none.
        confidence: in [0, 1]; calibrated for the discriminant, a softmax of divergences for the paper's rule.
        divergence: paper's rule: log distance to the chosen group (equation 7); discriminant: root mean squared
            Mahalanobis distance to the nearest degradation. Large = unlike everything known = a poor result to expect.
        is_ood: the image is out of the known distribution.
        degradation: likeliest degradation.
        note: why a fallback was taken; empty otherwise.
    """

    group: int
    name: str
    weights: Path | None
    confidence: float
    divergence: float
    is_ood: bool
    degradation: str = ""
    note: str = ""


@dataclass(frozen=True)
class Sampling:
    """How patches are taken from one image ("self-augmentation"); as in the reference set.

    Attributes:
        patch_px: edge of a patch in image pixels.
        num_patches: P.
        num_components: k.
        max_pixels: larger images are represented by a random window of at most this many pixels.
        seed: of crops and windows.
    """

    patch_px: int = 64
    num_patches: int = 300
    num_components: int = 300
    max_pixels: int = 160_000
    seed: int = 0


def image_features(descriptor: Descriptor, image: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """`(C, h, w)` features of `(3, H, W)`: reflect-padded to a patch where smaller, a random window where larger."""
    height, width = image.shape[1:]
    patch = sampling.patch_px
    if min(height, width) < patch:
        image = _padded(image, patch)
        height, width = image.shape[1:]
    if height * width > sampling.max_pixels:
        ratio = math.sqrt(sampling.max_pixels / (height * width))
        rows, columns = max(patch, int(height * ratio)), max(patch, int(width * ratio))
        rng = generator(sampling.seed, "router-window")
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        image = image[:, top : top + rows, left : left + columns]
    return descriptor.features(image[None])[0]


def _padded(image: torch.Tensor, edge: int) -> torch.Tensor:
    """Reflected until both sides have `edge` pixels; a side of one pixel is repeated."""
    for axis in (1, 2):
        while image.shape[axis] < edge:
            length = image.shape[axis]
            grow = min(edge - length, max(1, length - 1))
            pad = (0, 0, 0, grow) if axis == 1 else (0, grow, 0, 0)
            image = F.pad(image[None], pad, mode="reflect" if length > 1 else "replicate")[0]
    return image


def image_ggd(features: torch.Tensor, sampling: Sampling, *, stride: float = 1) -> GGD:
    """GGD(d) of one image: P random overlapping crops of its feature map, then as for a set of patches.

    Raises:
        DataError: the image is constant.
    """
    edge = min(max(1, int(sampling.patch_px / stride)), *features.shape[1:])
    rng = generator(sampling.seed, "router-crops")
    tops = rng.integers(features.shape[1] - edge + 1, size=sampling.num_patches)
    lefts = rng.integers(features.shape[2] - edge + 1, size=sampling.num_patches)
    crops = torch.stack(
        [features[:, t : t + edge, x : x + edge].flatten() for t, x in zip(tops, lefts, strict=True)]
    )
    gram = centred_gram(crops, crops.device)
    return fit_ggd(pca_projections(gram, sampling.num_components))


@dataclass
class Router:
    """Chooses the group, and so the network, for an image.

    Attributes:
        groups: the partition.
        degradations: order of `ggds` and of the discriminant's classes.
        ggds: GGD of each degradation.
        descriptor: the feature extractor.
        sampling: of patches.
        rule: `divergence` (the paper's, equation 7) or `discriminant`.
        ood_distance: log distance above which the paper's rule calls an image out of distribution.
        ood_share: share of known images that the discriminant may call so.
        discriminant: for its rule.
        folder: of the router file; weights are relative to it.
        about: seed, options, data, kept in the file.
    """

    groups: Sequence[RoutedGroup]
    degradations: Sequence[str]
    ggds: Sequence[GGD]
    descriptor: Descriptor
    sampling: Sampling = field(default_factory=Sampling)
    rule: Rule = "divergence"
    ood_distance: float = 4.0
    ood_share: float = 0.01
    discriminant: Discriminant | None = None
    folder: Path = field(default_factory=Path)
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rule == "discriminant" and self.discriminant is None:
            raise DataError("this router has no discriminant", remedy="use rule: divergence, or build the router again")
        for group in self.groups:
            for member in group.members:
                if member not in self.degradations:
                    raise DataError(
                        f"group '{group.name}' holds '{member}', a degradation unknown to the router",
                        remedy=did_you_mean(member, self.degradations) + "; measure it and build the router again",
                    )
        grouped = {m for g in self.groups for m in g.members}
        left = [d for d in self.degradations if d not in grouped]
        if left:
            raise DataError(f"no group holds {', '.join(left)}", remedy="give every degradation a group")
        self._group_of = np.array(
            [next(i for i, g in enumerate(self.groups) if d in g.members) for d in self.degradations]
        )
        index = {d: i for i, d in enumerate(self.degradations)}
        self.group_ggds = [mean_ggd([self.ggds[index[m]] for m in g.members]) for g in self.groups]

    def choose(self, image: torch.Tensor) -> Choice:
        """Section 5.2 for one image.

        Args:
            image: `(3, H, W)` or `(1, 3, H, W)` RGB in [0, 1]. Smaller than a patch: it is continued by reflection.
                Constant: nothing can be measured, so the first group is chosen, with confidence 0 and the flag set.

        Returns:
            The choice.
        """
        image = (image[0] if image.ndim == 4 else image).float()
        with torch.no_grad():
            features = image_features(self.descriptor, image, self.sampling)
        if float(image.flatten(1).std(1, correction=0).max()) < 1e-6:  # per channel: a plain colour is constant, too
            return self._constant()
        if self.rule == "discriminant":
            return self.choose_by_discriminant(difference_statistics(features))
        try:
            return self.choose_by_divergence(image_ggd(features, self.sampling, stride=self.descriptor.stride))
        except DataError:
            return self._constant()

    def choose_by_divergence(self, found: GGD) -> Choice:
        """Equation 7: the group whose mean GGD has the least D_KL(GGD(C) || GGD(d))."""
        kl = np.array([kl_divergence(g, found) for g in self.group_ggds])
        group = int(np.argmin(kl))
        nearest = int(np.argmin([kl_divergence(g, found) for g in self.ggds]))
        likely = np.exp(-(kl - kl.min()))
        distance = float(log_distance(float(kl[group])))
        confidence = float(likely[group] / likely.sum())
        return self._choice(group, confidence, distance, distance > self.ood_distance, self.degradations[nearest])

    def choose_by_discriminant(self, statistics: np.ndarray) -> Choice:
        """The group with the largest sum of its degradations' probabilities."""
        assert self.discriminant is not None, "checked when the router was made"
        distances = self.discriminant.distances_to(statistics)[0]
        posteriors = self.discriminant.posteriors(statistics)[0]
        shares = np.bincount(self._group_of, weights=posteriors, minlength=len(self.groups))
        group = int(np.argmax(shares))
        tail = self.discriminant.tail(float(distances.min()))
        divergence = math.sqrt(float(distances.min()) / len(statistics))
        likely = self.degradations[int(np.argmax(posteriors))]
        return self._choice(group, float(shares[group]), divergence, tail <= self.ood_share, likely)

    def _choice(self, group: int, confidence: float, divergence: float, is_ood: bool, degradation: str) -> Choice:
        chosen = self.groups[group]
        return Choice(group, chosen.name, self._weights(chosen), confidence, divergence, is_ood, degradation)

    def _constant(self) -> Choice:
        first = self.groups[0]
        return Choice(
            0, first.name, self._weights(first), 0.0, math.inf, True,
            note="the image is constant: its features have no distribution; the first group stands in",
        )  # fmt: skip

    def _weights(self, group: RoutedGroup) -> Path | None:
        return self.folder / group.weights if group.weights else None

    def _descriptor_json(self, folder: Path) -> dict[str, Any]:
        """With the weights' place relative to the router file, as those of the groups are."""
        found = self.descriptor.to_json()
        if found.get("weights"):
            found["weights"] = os.path.relpath(found["weights"], folder)
        return found

    def save(self, path: Path | str) -> None:
        """Write `router.json` and, for the discriminant, `router.npz` beside it."""
        path = Path(path)
        if self.discriminant is not None:
            arrays = self.discriminant.arrays()
            write_atomic(path.with_suffix(".npz"), lambda f: np.savez(f, **arrays))
        write_json(
            path,
            {
                "schema": "tgsr.router",
                "version": VERSION,
                "rule": self.rule,
                "groups": [asdict(g) for g in self.groups],
                "degradations": list(self.degradations),
                "ggds": [asdict(g) for g in self.ggds],
                "descriptor": self._descriptor_json(path.parent),
                "sampling": asdict(self.sampling),
                "ood_distance": self.ood_distance,
                "ood_share": self.ood_share,
                "discriminant": path.with_suffix(".npz").name if self.discriminant is not None else None,
                "about": self.about,
            },
        )

    @staticmethod
    def load(path: Path | str, *, device: torch.device | str = "cpu", rule: Rule | None = None) -> Router:
        """Inverse of `save`.

        Args:
            path: `router.json`.
            device: of the descriptor; images given to `choose` must be there.
            rule: another rule than the file's.
        """
        path = Path(path)
        data = read_json(path)
        check_schema(data, "tgsr.router", path, version=VERSION, made_by="BuildRouter")
        with undamaged(path, "copy router.json and router.npz again, or run BuildRouter"):
            return Router._from_json(data, path, device, rule)

    @staticmethod
    def _from_json(data: dict[str, Any], path: Path, device: torch.device | str, rule: Rule | None) -> Router:
        discriminant = None
        if data["discriminant"]:
            npz = path.parent / data["discriminant"]
            if not npz.exists():
                raise DataError("the router's arrays are missing", place=str(npz), remedy="copy both files together")
            with np.load(npz) as arrays:
                discriminant = Discriminant.from_arrays({k: arrays[k] for k in arrays.files})
        return Router(
            groups=[RoutedGroup(g["name"], tuple(g["members"]), g["weights"]) for g in data["groups"]],
            degradations=data["degradations"],
            ggds=[GGD(**g) for g in data["ggds"]],
            descriptor=descriptor_from_json(data["descriptor"], base=path.parent).to(torch.device(device)),
            sampling=Sampling(**data["sampling"]),
            rule=rule or data["rule"],
            ood_distance=data["ood_distance"],
            ood_share=data["ood_share"],
            discriminant=discriminant,
            folder=path.parent,
            about=data["about"],
        )


def routed_restorers(path: Path | str, make_restorer: Any) -> Any:
    """How `inference.py --router` picks the network of each image.

    Args:
        path: `router.json`.
        make_restorer: `(weights, option file or None) -> restorer`; called once for each group that is chosen.

    Returns:
        Image `(H, W, 3)` uint8 or float in [0, 1] -> its restorer and what the router says, for `choices.jsonl`.
    """
    router = Router.load(path)
    known: dict[int, Any] = {}

    def choose(image: np.ndarray) -> tuple[Any, dict[str, Any]]:
        choice = router.choose(to_tensor(image))
        if choice.group not in known:
            if choice.weights is None:
                raise DataError(f"group '{choice.name}' has no weights", place=str(path), remedy="name them there")
            known[choice.group] = make_restorer(choice.weights, None)
        words = {k: v for k, v in asdict(choice).items() if k != "weights" and v != ""}
        words["divergence"] = None if math.isinf(choice.divergence) else choice.divergence
        return known[choice.group], words

    return choose

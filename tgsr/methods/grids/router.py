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
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.files import check_schema, read_json, undamaged, write_atomic, write_json
from tgsr.utils.image_io import to_tensor
from tgsr.utils.registry import did_you_mean
from tgsr.utils.rng import generator

VERSION = 1
Rule = Literal["divergence", "discriminant"]
Null = Literal["pooled", "class"]
OnUnknown = Literal["keep", "restore"]
CLEAN = "clean"


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
        divergence: of the paper's rule, the log distance to the chosen group (equation 7); None by the discriminant.
        mahalanobis: of the discriminant, the root mean squared Mahalanobis distance to the nearest degradation; None
            by the paper's rule. Large numbers = unlike everything known = a poor result to expect.
        p_value: of the discriminant: how many known images would be as far away.
        is_ood: the image is out of the known distribution.
        is_clean: nothing is to be restored; there is no group then (`group` is their number).
        degradation: likeliest degradation.
        note: why a fallback was taken; empty otherwise.
    """

    group: int
    name: str
    weights: Path | None
    confidence: float
    divergence: float | None
    is_ood: bool
    degradation: str = ""
    note: str = ""
    mahalanobis: float | None = None
    p_value: float | None = None
    is_clean: bool = False

    @property
    def unlikeness(self) -> tuple[float, float]:
        """What the flag `is_ood` is decided by: larger = more unlike what is known; a tie by the second."""
        if self.p_value is not None:
            return 1 - self.p_value, self.mahalanobis or 0.0
        return (math.inf if self.divergence is None else self.divergence), 0.0


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
    crops = torch.stack([features[:, t : t + edge, x : x + edge].flatten() for t, x in zip(tops, lefts, strict=True)])
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
        null: `pooled`: the p-value against all reference images' distances to their nearest class; `class`: the largest
            of the p-values of the classes, each against its own reference images.
        discriminant: for its rule. Where it has a class more than there are degradations, that one is the clean image.
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
    null: Null = "pooled"
    discriminant: Discriminant | None = None
    folder: Path = field(default_factory=Path)
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.null == "class" and self.discriminant is not None and not len(self.discriminant.own):
            raise DataError("this router has no distances of single classes", remedy="build the router again")
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

    @property
    def has_clean(self) -> bool:
        """Whether it knows what a clean image looks like."""
        return self.discriminant is not None and len(self.discriminant.means) > len(self.degradations)

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
        is_ood = distance > self.ood_distance
        return self._choice(group, confidence, is_ood, self.degradations[nearest], divergence=distance)

    def choose_by_discriminant(self, statistics: np.ndarray) -> Choice:
        """The group with the largest sum of its degradations' probabilities, or the clean image."""
        assert self.discriminant is not None, "checked when the router was made"
        distances = self.discriminant.distances_to(statistics)[0]
        posteriors = self.discriminant.posteriors(statistics)[0]
        num = len(self.groups)
        group_of = np.append(self._group_of, num) if self.has_clean else self._group_of
        shares = np.bincount(group_of, weights=posteriors, minlength=num + self.has_clean)
        group, nearest = int(np.argmax(shares)), float(distances.min())
        p_value = self.discriminant.tail(nearest)
        if self.null == "class":
            p_value = float(self.discriminant.p_values(distances).max())
        likely = [*self.degradations, CLEAN][int(np.argmax(posteriors))]
        mahalanobis = math.sqrt(nearest / len(statistics))
        return self._choice(
            group, float(shares[group]), p_value <= self.ood_share, likely, mahalanobis=mahalanobis, p_value=p_value
        )

    def _choice(self, group: int, confidence: float, is_ood: bool, degradation: str, **distances: float) -> Choice:
        numbers = {"divergence": None, **distances}
        about = {"confidence": confidence, "is_ood": is_ood, "degradation": degradation, **numbers}
        if group == len(self.groups):
            return Choice(group, CLEAN, None, is_clean=True, **about)  # type: ignore[arg-type]
        chosen = self.groups[group]
        return Choice(group, chosen.name, self._weights(chosen), **about)  # type: ignore[arg-type]

    def _constant(self) -> Choice:
        first = self.groups[0]
        return Choice(
            0, first.name, self._weights(first), 0.0, None, True,
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
                "null": self.null,
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
            null=data.get("null", "pooled"),
            discriminant=discriminant,
            folder=path.parent,
            about=data["about"],
        )


class Kept:
    """Stands in for a network where an image is to be left alone."""

    def __call__(self, image: np.ndarray, alpha: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """The image itself, `(H, W, 3)` float32 in [0, 1]."""
        return _unit(image), None if alpha is None else _unit(alpha)

    def size_of(self, image: np.ndarray) -> tuple[int, int]:
        """Height and width."""
        return image.shape[0], image.shape[1]


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / (np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1)


def routed_restorers(
    path: Path | str,
    make_restorer: Any,
    *,
    device: torch.device | str = "cpu",
    on_unknown: OnUnknown = "restore",
) -> Any:
    """How `inference.py --router` picks the network of each image.

    Args:
        path: `router.json`.
        make_restorer: `(weights, option file or None) -> restorer`; called once for each group that is chosen.
        device: of the descriptor.
        on_unknown: what is done to images that look like nothing known: `keep` them as they are, or `restore` them by
            the nearest group. Images that look clean are kept in any case.

    Returns:
        Image `(H, W, 3)` uint8 or float in [0, 1] -> its restorer and what the router says, for `choices.jsonl`.

    Raises:
        ConfigError: `keep` with a router that has no clean class.
    """
    router = Router.load(path, device=device)
    if on_unknown == "keep" and not router.has_clean:
        remedy = "use --on-unknown restore, or build it with run: {clean: true}"
        raise ConfigError(
            "this router has no clean class, so unknown images are not kept", place=str(path), remedy=remedy
        )
    known: dict[int, Any] = {}

    def choose(image: np.ndarray) -> tuple[Any, dict[str, Any]]:
        choice = router.choose(to_tensor(image).to(device))
        words = {k: v for k, v in asdict(choice).items() if k != "weights" and v != ""}
        if choice.is_clean or (choice.is_ood and on_unknown == "keep"):
            return Kept(), {**words, "is_kept": True}
        if choice.group not in known:
            if choice.weights is None:
                raise DataError(f"group '{choice.name}' has no weights", place=str(path), remedy="name them there")
            known[choice.group] = make_restorer(choice.weights, None)
        return known[choice.group], words

    return choose

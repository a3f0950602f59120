"""The pipeline and the space of named degradations; a batch may mix them, each row says which it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tgsr.config.bind import signature_of
from tgsr.degradations.base import PIPELINES, SPACES, Backend, Pipeline, Space, noise_seed
from tgsr.degradations.named.base import NAMED, NamedDegradation, code_of, degradation_of
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams
from tgsr.utils.device import full_precision, upload
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean

KIND = "named_degradation"
"""Column that holds `code_of` the degradation's name."""

GRIDS_DEGRADATIONS = (
    "gaussian_blur",
    "motion_blur",
    "rl",
    "sr",
    "ringing",
    "defocus",
    "jpeg",
    "poisson",
    "inpainting",
    "gaussian_noise",
    "salt_pepper",
)
"""The eleven degradations of GRIDS, in the order of its Table 1."""


@PIPELINES.register("Named")
class NamedPipeline(Pipeline):
    """Applies to every sample the degradation its row names, clips to [0, 1] and rounds to 8 bits.

    Args:
        scale: always 1.
    """

    name = "Named"

    def __init__(self, *, scale: int = 1) -> None:
        if scale != 1:
            raise ConfigError(f"named degradations keep the image's size, not scale {scale}", remedy="use scale: 1")
        self.scale = 1

    def apply(
        self,
        gt: torch.Tensor,
        params: DegradationParams,
        generator: torch.Generator | None = None,
        backend: Backend = "auto",
    ) -> torch.Tensor:
        """See `Pipeline.apply`. The layout of lines and streaks comes from `noise_seed` even with a generator."""
        if backend == "auto":
            backend = "cpu" if gt.device.type == "cpu" else "torch"
        kinds = params[KIND]
        if backend == "cpu":
            out = torch.stack([_apply_one(gt[i], params.row(i), generator) for i in range(params.batch_size)])
        else:
            out = torch.empty_like(gt)
            for kind in dict.fromkeys(kinds.tolist()):
                rows = np.flatnonzero(kinds == kind)
                index = upload({"rows": rows}, gt.device)["rows"]
                some = params.take(rows)
                noise = NoiseSource(some["noise_seed"], gt.device, generator)
                with full_precision(gt.device):
                    out[index] = degradation_of(kind).apply_batch(gt[index], some, noise)
        return (out.clamp(0, 1) * 255).round() / 255


def _apply_one(image: torch.Tensor, row: dict[str, Any], generator: torch.Generator | None) -> torch.Tensor:
    noise = NoiseSource(np.array([row["noise_seed"]]), torch.device("cpu"), generator)
    degraded = degradation_of(row[KIND]).apply_image(
        np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()), row, noise
    )
    return torch.from_numpy(np.ascontiguousarray(degraded, dtype=np.float32)).permute(2, 0, 1).to(image.device)


@SPACES.register("Named")
class NamedSpace(Space):
    """One named degradation, its parameters drawn per sample.

    Args:
        degradation: its registered name, e.g. `gaussian_blur`.
        settings: arguments of the degradation that differ from its defaults, e.g. `{sigma_px: [1, 3]}`.
    """

    def __init__(self, *, degradation: str, settings: dict[str, Any] | None = None) -> None:
        entry = NAMED.get(degradation)
        self.degradation, self.settings = NAMED.name_of(degradation), dict(settings or {})
        known = signature_of(entry)
        for key in self.settings:
            if key not in known.parameters and not known.open:
                raise ConfigError(f"{degradation} takes no '{key}'", remedy=did_you_mean(key, known.parameters))
        try:
            self._ranges: NamedDegradation = entry(**self.settings)
        except TypeError as error:
            raise ConfigError(f"settings of '{degradation}': {error}") from error
        self.num_uniforms = len(self._ranges.parameters) + 1
        self._pipeline = NamedPipeline()

    @property
    def pipeline(self) -> Pipeline:
        return self._pipeline

    def draw(self, uniforms: np.ndarray) -> DegradationParams:
        columns: dict[str, np.ndarray] = {KIND: np.full(len(uniforms), code_of(self.degradation), dtype=np.int64)}
        for place, parameter in enumerate(self._ranges.parameters):
            columns[parameter.name] = parameter.draw(uniforms[:, place])
        columns["noise_seed"] = noise_seed(uniforms[:, -1])
        return DegradationParams(columns)

    def contains(self, params: DegradationParams) -> np.ndarray:
        inside = np.asarray(params[KIND] == code_of(self.degradation))
        for parameter in self._ranges.parameters:
            column = params.get(parameter.name)
            inside = inside & (parameter.contains(column) if column is not None else False)
        return inside

    def to_json(self) -> dict[str, Any]:
        settings = {"settings": self.settings} if self.settings else {}
        return {"type": "Named", "degradation": self.degradation, **settings}


@SPACES.register("NamedMix")
class NamedMixSpace(Space):
    """Several named degradations, one of them per sample with equal chances: the whole space of an all-in-one run.

    Args:
        degradations: their names; None: the eleven of GRIDS.
        settings: degradation name -> arguments that differ from its defaults.
    """

    def __init__(
        self, *, degradations: list[str] | None = None, settings: dict[str, dict[str, Any]] | None = None
    ) -> None:
        names = list(GRIDS_DEGRADATIONS) if degradations is None else list(degradations)
        self.settings = dict(settings or {})
        _check_names(names, self.settings)
        self.members = tuple(NamedSpace(degradation=n, settings=self.settings.get(n)) for n in names)
        self.num_uniforms = 1 + sum(m.num_uniforms for m in self.members)
        self._pipeline = NamedPipeline()

    @property
    def pipeline(self) -> Pipeline:
        return self._pipeline

    def draw(self, uniforms: np.ndarray) -> DegradationParams:
        chosen = np.floor(uniforms[:, 0] * len(self.members)).astype(int)
        starts = 1 + np.cumsum([0, *(m.num_uniforms for m in self.members)])
        rows: list[dict[str, Any]] = [{} for _ in chosen]
        for i, member in enumerate(self.members):
            places = np.flatnonzero(chosen == i)
            drawn = member.draw(uniforms[places, starts[i] : starts[i + 1]])
            for k, place in enumerate(places):
                rows[place] = drawn.row(k)
        return DegradationParams.from_rows(rows)

    def contains(self, params: DegradationParams) -> np.ndarray:
        return np.logical_or.reduce([m.contains(params) for m in self.members])

    def to_json(self) -> dict[str, Any]:
        settings = {"settings": self.settings} if self.settings else {}
        return {"type": "NamedMix", "degradations": [m.degradation for m in self.members], **settings}


def _check_names(names: Sequence[str], settings: Mapping[str, Any]) -> None:
    """ConfigError for no name, one that is unknown or given twice, and for settings of one that is not among them."""
    if not names:
        raise ConfigError("degradations is empty", remedy="name at least one, or leave it out for the eleven of GRIDS")
    for name in names:
        NAMED.get(name)
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ConfigError(f"degradations names {', '.join(twice)} twice", remedy="name each degradation once")
    for name in settings:
        if name not in names:
            remedy = did_you_mean(name, names)
            raise ConfigError(f"there are settings for '{name}', which is not among the degradations", remedy=remedy)


def named_params_to_json(params: DegradationParams) -> list[dict[str, Any]]:
    """Rows for people and files: the degradation's name instead of its code, and its own parameters only."""
    rows = []
    for row in params.to_json():
        name = degradation_of(row.pop(KIND)).name
        own = {p.name for p in NAMED.get(name)().parameters} | {"noise_seed"}
        rows.append({"degradation": name, **{k: v for k, v in row.items() if k in own}})
    return rows


def named_params_from_json(rows: Sequence[dict[str, Any]]) -> DegradationParams:
    """Inverse of `named_params_to_json`."""
    plain = []
    for row in rows:
        values = dict(row)
        name = NAMED.get(values.pop("degradation")).name
        plain.append({KIND: code_of(name), **values})
    return DegradationParams.from_rows(plain)

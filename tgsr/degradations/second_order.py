"""Real-ESRGAN's second-order degradation space, boxes of it, and first-order spaces (Real-ESRGAN, sections 3.1-3.4)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tgsr.degradations.base import PIPELINES, SPACES, Pipeline, Space, noise_seed
from tgsr.degradations.kernels import KERNEL_TYPES, MAX_KERNEL_SIZE
from tgsr.degradations.params import DegradationParams
from tgsr.degradations.presets import PRESETS, RESIZE_MODES
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean

RESIZE_UP, RESIZE_DOWN, RESIZE_KEEP = 0, 1, 2
NOISE_GAUSSIAN, NOISE_POISSON, NOISE_NONE = 0, 1, 2

_STAGE_COLUMNS = (
    "blur{}",
    "kernel{}_size",
    "kernel{}_is_sinc",
    "kernel{}_omega",
    "kernel{}_type",
    "kernel{}_sigma_x",
    "kernel{}_sigma_y",
    "kernel{}_theta",
    "kernel{}_beta_g",
    "kernel{}_beta_p",
    "resize{}_kind",
    "resize{}_scale",
    "resize{}_mode",
    "noise{}_kind",
    "noise{}_is_gray",
    "noise{}_sigma_255",
    "noise{}_poisson_scale",
    "jpeg{}",
    "jpeg{}_quality",
)
_FINAL_COLUMNS = ("final_sinc", "final_size", "final_omega", "final_order", "final_mode", "noise_seed")
DRAWN_COLUMNS = tuple(c.format(k) for k in (1, 2) for c in _STAGE_COLUMNS) + _FINAL_COLUMNS
"""Every parameter has one place in the vector of uniforms, in this order. `num_stages` (1 or 2) is not drawn."""

_RANGE_COLUMNS = {
    "blur_sigma{}": ("kernel{}_sigma_x", "kernel{}_sigma_y"),
    "rotation_range{}": ("kernel{}_theta",),
    "betag_range{}": ("kernel{}_beta_g",),
    "betap_range{}": ("kernel{}_beta_p",),
    "resize_range{}": ("resize{}_scale",),
    "noise_range{}": ("noise{}_sigma_255",),
    "poisson_scale_range{}": ("noise{}_poisson_scale",),
    "jpeg_range{}": ("jpeg{}_quality",),
}
RANGE_KEYS = tuple(key.format(k) for k in ("", "2") for key in _RANGE_COLUMNS)
_POSITIVE = ("blur_sigma", "betag_range", "betap_range", "resize_range", "jpeg_range")


@SPACES.register("SecondOrder")
class SecondOrderSpace(Space):
    """Blur, resize, noise, JPEG, twice, then resize to `1 / scale` with a sinc filter before or after the last JPEG.

    Arguments are named like the keys of Real-ESRGAN's option files; a `2` marks the second stage. Those that are
    left out come from `preset`. Every choice is drawn for each sample. Members that a sample does not use
    (beta of a plain Gaussian, the Poisson scale under Gaussian noise) are drawn and stored all the same.

    Args:
        preset: `x4plus`, `x2plus`, `cdr`, `cdr_mild`, `cdr_blur`, `cdr_noise`, `cdr_severe`, `first_order`,
            `first_order_mild` or `none`.
        scale: ratio of ground truth and output.
        second_stage: False makes a first-order space: blur, resize relative to `1 / scale`, noise, JPEG; the keys of
            the second stage have no effect.
        blur_prob: probability of the first blur.
        blur_kernel_size: largest kernel; sizes are uniform over 7, 9, ... up to it.
        kernel_list: kinds of kernels.
        kernel_prob: their probabilities.
        sinc_prob: probability of a sinc kernel instead.
        blur_sigma: range of both widths in pixels.
        betag_range: exponent of generalised Gaussians: half the draws below 1, half above.
        betap_range: exponent of plateau kernels, likewise.
        rotation_range: angle of anisotropic kernels in radians.
        resize_prob: probabilities of up, down, keep.
        resize_range: smallest and largest factor; down is uniform up to 1, up uniform from 1. In the second stage (and
            in a first-order space) factors are relative to `1 / scale` of the ground truth.
        noise_prob: probability of any noise.
        gaussian_noise_prob: of it, the share of Gaussian noise; the rest is Poisson.
        noise_range: standard deviation of Gaussian noise, of 255.
        poisson_scale_range: multiplier of Poisson noise.
        gray_noise_prob: probability that all channels share the noise.
        jpeg_prob: probability of JPEG.
        jpeg_range: its quality.
        second_blur_prob: probability of the second blur.
        blur_kernel_size2, kernel_list2, kernel_prob2, sinc_prob2, blur_sigma2, betag_range2, betap_range2,
            rotation_range2, resize_prob2, resize_range2, noise_prob2, gaussian_noise_prob2, noise_range2,
            poisson_scale_range2, gray_noise_prob2, jpeg_prob2, jpeg_range2: of the second stage.
        resize_modes: interpolations to choose from, uniformly, in all three resizes.
        final_sinc_prob: probability of the final sinc filter.
        jpeg: `diffjpeg` (Real-ESRGAN's) or `codec`, a real codec at integer quality.
    """

    num_uniforms = len(DRAWN_COLUMNS)

    def __init__(
        self,
        *,
        preset: str = "x4plus",
        scale: int | None = None,
        second_stage: bool | None = None,
        blur_prob: float | None = None,
        blur_kernel_size: int | None = None,
        kernel_list: list[str] | None = None,
        kernel_prob: list[float] | None = None,
        sinc_prob: float | None = None,
        blur_sigma: list[float] | None = None,
        betag_range: list[float] | None = None,
        betap_range: list[float] | None = None,
        rotation_range: list[float] | None = None,
        resize_prob: list[float] | None = None,
        resize_range: list[float] | None = None,
        noise_prob: float | None = None,
        gaussian_noise_prob: float | None = None,
        noise_range: list[float] | None = None,
        poisson_scale_range: list[float] | None = None,
        gray_noise_prob: float | None = None,
        jpeg_prob: float | None = None,
        jpeg_range: list[float] | None = None,
        second_blur_prob: float | None = None,
        blur_kernel_size2: int | None = None,
        kernel_list2: list[str] | None = None,
        kernel_prob2: list[float] | None = None,
        sinc_prob2: float | None = None,
        blur_sigma2: list[float] | None = None,
        betag_range2: list[float] | None = None,
        betap_range2: list[float] | None = None,
        rotation_range2: list[float] | None = None,
        resize_prob2: list[float] | None = None,
        resize_range2: list[float] | None = None,
        noise_prob2: float | None = None,
        gaussian_noise_prob2: float | None = None,
        noise_range2: list[float] | None = None,
        poisson_scale_range2: list[float] | None = None,
        gray_noise_prob2: float | None = None,
        jpeg_prob2: float | None = None,
        jpeg_range2: list[float] | None = None,
        resize_modes: list[str] | None = None,
        final_sinc_prob: float | None = None,
        jpeg: Literal["diffjpeg", "codec"] | None = None,
    ) -> None:
        given = {k: v for k, v in locals().items() if v is not None and k not in ("self", "preset")}
        given.pop("__class__", None)
        if preset not in PRESETS:
            raise ConfigError(f"preset: there is no '{preset}'", remedy=did_you_mean(preset, PRESETS))
        self.settings = _normalised({**PRESETS[preset], **given})
        check_settings(self.settings)
        self._pipeline: Pipeline = PIPELINES.get("SecondOrder")(
            scale=self.settings["scale"], jpeg=self.settings["jpeg"]
        )

    @property
    def pipeline(self) -> Pipeline:
        return self._pipeline

    @property
    def scale(self) -> int:
        return self.settings["scale"]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecondOrderSpace) and self.settings == other.settings

    def __hash__(self) -> int:
        return hash(repr(sorted(self.settings.items())))

    def __repr__(self) -> str:
        return f"SecondOrderSpace({', '.join(f'{k}={v}' for k, v in self.settings.items())})"

    def to_json(self) -> dict[str, Any]:
        """Every setting by value, so that the file means the same whatever becomes of the presets."""
        return {"type": "SecondOrder", **copy.deepcopy(self.settings)}

    def draw(self, uniforms: np.ndarray) -> DegradationParams:
        if uniforms.ndim != 2 or uniforms.shape[1] != self.num_uniforms:
            raise ValueError(f"uniforms must be (B, {self.num_uniforms}), not {uniforms.shape}")
        u = dict(zip(DRAWN_COLUMNS, np.asarray(uniforms, dtype=np.float64).T, strict=True))
        num_stages = 2 if self.settings["second_stage"] else 1
        columns: dict[str, np.ndarray] = {"num_stages": np.full(len(uniforms), num_stages)}
        columns.update(self._draw_stage(u, 1))
        columns.update(self._draw_stage(u, 2))
        columns["final_sinc"] = u["final_sinc"] < self.settings["final_sinc_prob"]
        columns["final_size"] = _choice(_sizes(MAX_KERNEL_SIZE), u["final_size"])
        columns["final_omega"] = _uniform((np.pi / 3, np.pi), u["final_omega"])
        columns["final_order"] = u["final_order"] >= 0.5
        columns["final_mode"] = self._draw_mode(u["final_mode"])
        columns["noise_seed"] = noise_seed(u["noise_seed"])
        return DegradationParams(columns)

    def _draw_stage(self, u: Mapping[str, np.ndarray], stage: int) -> dict[str, np.ndarray]:
        def s(key: str) -> Any:
            return self.settings[key + ("2" if stage == 2 else "")]

        v = {c: u[c.format(stage)] for c in _STAGE_COLUMNS}
        gaussian = s("noise_prob") * s("gaussian_noise_prob")
        noise_shares = [gaussian, s("noise_prob") - gaussian, 1 - s("noise_prob")]
        size = _choice(_sizes(s("blur_kernel_size")), v["kernel{}_size"])
        kinds = np.array([KERNEL_TYPES.index(k) for k in s("kernel_list")])
        resize_kind = _categorical(s("resize_prob"), v["resize{}_kind"])
        low, high = s("resize_range")
        position = v["resize{}_scale"]
        down, up = _uniform((low, min(1.0, high)), position), _uniform((max(1.0, low), high), position)
        drawn = {
            "blur{}": v["blur{}"] < self._blur_prob(stage),
            "kernel{}_size": size,
            "kernel{}_is_sinc": v["kernel{}_is_sinc"] < s("sinc_prob"),
            "kernel{}_omega": _uniform((np.where(size < 13, np.pi / 3, np.pi / 5), np.pi), v["kernel{}_omega"]),
            "kernel{}_type": kinds[_categorical(s("kernel_prob"), v["kernel{}_type"])],
            "kernel{}_sigma_x": _uniform(s("blur_sigma"), v["kernel{}_sigma_x"]),
            "kernel{}_sigma_y": _uniform(s("blur_sigma"), v["kernel{}_sigma_y"]),
            "kernel{}_theta": _uniform(s("rotation_range"), v["kernel{}_theta"]),
            "kernel{}_beta_g": _two_sided(s("betag_range"), v["kernel{}_beta_g"]),
            "kernel{}_beta_p": _two_sided(s("betap_range"), v["kernel{}_beta_p"]),
            "resize{}_kind": resize_kind,
            "resize{}_scale": np.choose(resize_kind, [up, down, np.ones_like(up)]),
            "resize{}_mode": self._draw_mode(v["resize{}_mode"]),
            "noise{}_kind": _categorical(noise_shares, v["noise{}_kind"]),
            "noise{}_is_gray": v["noise{}_is_gray"] < s("gray_noise_prob"),
            "noise{}_sigma_255": _uniform(s("noise_range"), v["noise{}_sigma_255"]),
            "noise{}_poisson_scale": _uniform(s("poisson_scale_range"), v["noise{}_poisson_scale"]),
            "jpeg{}": v["jpeg{}"] < s("jpeg_prob"),
            "jpeg{}_quality": _uniform(s("jpeg_range"), v["jpeg{}_quality"]),
        }
        return {k.format(stage): x for k, x in drawn.items()}

    def _draw_mode(self, u: np.ndarray) -> np.ndarray:
        return _choice(np.array([RESIZE_MODES.index(m) for m in self.settings["resize_modes"]]), u)

    def _blur_prob(self, stage: int) -> float:
        return self.settings["blur_prob" if stage == 1 else "second_blur_prob"]

    def restrict(self, **ranges: Sequence[float]) -> SecondOrderSpace:
        """A box: some ranges narrowed, all else alike. The other parameters of a draw do not change.

        Args:
            ranges: any of `RANGE_KEYS`, e.g. `blur_sigma=[1.6, 2.3]`; a range of one value fixes it.

        Raises:
            ConfigError: a key is not a range, or a range is not inside this space's.
        """
        changed = {}
        for key, value in ranges.items():
            if key not in RANGE_KEYS:
                raise ConfigError(f"'{key}' is not a range of the space", remedy=did_you_mean(key, RANGE_KEYS))
            low, high = self.settings[key]
            if len(value) != 2 or not low <= value[0] <= value[1] <= high:
                raise ConfigError(
                    f"{key}: {list(value)} is not inside the space's [{low:g}, {high:g}]",
                    remedy="give a low and a high inside it, or widen the space",
                )
            changed[key] = list(value)
        return SecondOrderSpace(**{**copy.deepcopy(self.settings), **changed})

    def box(self) -> dict[str, tuple[float, float]]:
        """The ranges by key."""
        return {key: tuple(self.settings[key]) for key in RANGE_KEYS}

    def overlaps(self, other: SecondOrderSpace) -> bool:
        """Whether the boxes of ranges have a common interior: they meet in every range, not just at an end."""
        mine, theirs = self.box(), other.box()
        return all(_intervals_meet(mine[k], theirs[k]) for k in RANGE_KEYS)

    def contains(self, params: DegradationParams) -> np.ndarray:
        """(B,) bool: whether the space can draw the degradation of each row; members a row does not use may be any."""
        ok = params["num_stages"] == (2 if self.settings["second_stage"] else 1)
        for stage in (1, 2) if self.settings["second_stage"] else (1,):
            ok &= self._stage_contains(params, stage)
        sinc = params["final_sinc"] == 1
        ok &= _possible(self.settings["final_sinc_prob"], sinc)
        ok &= ~sinc | np.isin(params["final_size"], _sizes(MAX_KERNEL_SIZE))
        ok &= ~sinc | _inside((np.pi / 3, np.pi), params["final_omega"])
        return ok & self._has_mode(params["final_mode"])

    def _stage_contains(self, params: DegradationParams, stage: int) -> np.ndarray:
        def s(key: str) -> Any:
            return self.settings[key + ("2" if stage == 2 else "")]

        p = {c: params[c.format(stage)] for c in _STAGE_COLUMNS}
        blurred, noise = p["blur{}"] == 1, p["noise{}_kind"]
        sinc = blurred & (p["kernel{}_is_sinc"] == 1)
        density = blurred & ~sinc
        kinds = [KERNEL_TYPES.index(k) for k, prob in zip(s("kernel_list"), s("kernel_prob"), strict=True) if prob > 0]
        ok = _possible(self._blur_prob(stage), blurred)
        ok &= ~blurred | np.isin(p["kernel{}_size"], _sizes(s("blur_kernel_size")))
        ok &= ~blurred | _possible(s("sinc_prob"), sinc)
        lowest = np.where(p["kernel{}_size"] < 13, np.pi / 3, np.pi / 5)
        ok &= ~sinc | _inside((lowest, np.pi), p["kernel{}_omega"])
        ok &= ~density | np.isin(p["kernel{}_type"], kinds)
        ok &= ~density | _inside(s("blur_sigma"), p["kernel{}_sigma_x"])
        rotated = density & (p["kernel{}_type"] % 2 == 1)
        ok &= ~rotated | _inside(s("blur_sigma"), p["kernel{}_sigma_y"])
        ok &= ~rotated | _inside(s("rotation_range"), p["kernel{}_theta"])
        ok &= ~(density & (p["kernel{}_type"] // 2 == 1)) | _inside(s("betag_range"), p["kernel{}_beta_g"])
        ok &= ~(density & (p["kernel{}_type"] // 2 == 2)) | _inside(s("betap_range"), p["kernel{}_beta_p"])
        ok &= np.isin(p["resize{}_kind"], np.flatnonzero(s("resize_prob")))
        low, high = s("resize_range")
        scale = p["resize{}_scale"]
        spans = [_inside((max(1.0, low), high), scale), _inside((low, min(1.0, high)), scale), scale == 1]
        ok &= np.select([p["resize{}_kind"] == k for k in range(3)], spans, False)
        ok &= self._has_mode(p["resize{}_mode"])
        shares = [s("noise_prob") * s("gaussian_noise_prob"), s("noise_prob") * (1 - s("gaussian_noise_prob"))]
        ok &= np.isin(noise, np.flatnonzero([*shares, 1 - s("noise_prob")]))
        ok &= (noise == NOISE_NONE) | _possible(s("gray_noise_prob"), p["noise{}_is_gray"] == 1)
        ok &= (noise != NOISE_GAUSSIAN) | _inside(s("noise_range"), p["noise{}_sigma_255"])
        ok &= (noise != NOISE_POISSON) | _inside(s("poisson_scale_range"), p["noise{}_poisson_scale"])
        ok &= _possible(s("jpeg_prob"), p["jpeg{}"] == 1)
        return ok & ((p["jpeg{}"] == 0) | _inside(s("jpeg_range"), p["jpeg{}_quality"]))

    def _has_mode(self, mode: np.ndarray) -> np.ndarray:
        return np.isin(mode, [RESIZE_MODES.index(m) for m in self.settings["resize_modes"]])


def check_settings(settings: Mapping[str, Any]) -> None:
    """ConfigError naming the first setting that makes no sense, with what it should be."""
    if settings["scale"] < 1:
        raise ConfigError(f"scale: {settings['scale']} must be at least 1", remedy="usual: 1, 2, 4")
    if settings["jpeg"] not in ("diffjpeg", "codec"):
        raise ConfigError(f"jpeg: there is no '{settings['jpeg']}'", remedy="choose diffjpeg or codec")
    for key, value in settings.items():
        if key.endswith(("_prob", "_prob2")) and not isinstance(value, list) and not 0 <= value <= 1:
            raise ConfigError(f"{key}: {value} is not a probability", remedy="give a number from 0 to 1")
    for suffix in ("", "2"):
        size = settings["blur_kernel_size" + suffix]
        if size % 2 == 0 or not 7 <= size <= MAX_KERNEL_SIZE:
            raise ConfigError(f"blur_kernel_size{suffix}: {size} must be odd, 7 to {MAX_KERNEL_SIZE}", remedy="try 21")
        _check_names("kernel_list" + suffix, settings["kernel_list" + suffix], KERNEL_TYPES)
        _check_shares("kernel_prob" + suffix, settings["kernel_prob" + suffix], settings["kernel_list" + suffix])
        _check_shares("resize_prob" + suffix, settings["resize_prob" + suffix], ["up", "down", "keep"])
        _check_resize(settings, suffix)
    _check_names("resize_modes", settings["resize_modes"], RESIZE_MODES)
    for key in RANGE_KEYS:
        _check_range(key, settings[key])


def _check_names(key: str, names: Sequence[str], known: Sequence[str]) -> None:
    if not names:
        raise ConfigError(f"{key}: is empty", remedy=did_you_mean("", known))
    for name in names:
        if name not in known:
            raise ConfigError(f"{key}: there is no '{name}'", remedy=did_you_mean(name, known))


def _check_shares(key: str, shares: Sequence[float], names: Sequence[str]) -> None:
    if len(shares) != len(names) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(
            f"{key}: {shares} must be {len(names)} numbers >= 0 with sum 1",
            remedy=f"one for each of {', '.join(names)}",
        )


def _check_range(key: str, value: Sequence[float]) -> None:
    if len(value) != 2 or not (np.isfinite(value).all() and value[0] <= value[1]):
        raise ConfigError(f"{key}: {value} is not a range", remedy="give [low, high] with low <= high")
    if key.rstrip("2") in _POSITIVE and value[0] <= 0:
        raise ConfigError(f"{key}: {value} must be above 0", remedy="raise the low end")
    if key.startswith(("noise_range", "poisson_scale_range")) and value[0] < 0:
        raise ConfigError(f"{key}: {value} must not be negative", remedy="raise the low end to 0")
    if key.startswith("jpeg_range") and value[1] >= 100:
        raise ConfigError(f"{key}: {value} must stay below 100", remedy="lower the high end; usual: [30, 95]")


def _check_resize(settings: Mapping[str, Any], suffix: str) -> None:
    _check_range("resize_range" + suffix, settings["resize_range" + suffix])
    (low, high), (up, down, _) = settings["resize_range" + suffix], settings["resize_prob" + suffix]
    if (up > 0 and high < 1) or (down > 0 and low > 1):
        way = "up" if up > 0 and high < 1 else "down"
        raise ConfigError(
            f"resize_range{suffix}: [{low:g}, {high:g}] leaves no factor to go {way}",
            remedy=f"let the range hold 1, or change resize_prob{suffix} (up, down, keep)",
        )


def _normalised(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of one type each, so that equal spaces have equal JSON."""

    def plain(key: str, value: Any) -> Any:
        if isinstance(value, (list, tuple, np.ndarray)):
            return [v if isinstance(v, str) else float(v) for v in value]
        if key == "scale" or key.startswith("blur_kernel_size"):
            return int(value)
        return value if isinstance(value, (bool, str)) else float(value)

    return {key: plain(key, value) for key, value in settings.items()}


def _sizes(largest: int) -> np.ndarray:
    return np.arange(7, largest + 1, 2)


def _choice(values: np.ndarray, u: np.ndarray) -> np.ndarray:
    return values[(u * len(values)).astype(np.int64)]


def _categorical(shares: Sequence[float], u: np.ndarray) -> np.ndarray:
    """Index by inversion; a share of 0 is never drawn, whatever the rounding of the sum."""
    edges = np.cumsum(shares)
    index = np.searchsorted(edges, u, side="right")
    return np.minimum(index, np.flatnonzero(np.asarray(shares) > 1e-12)[-1])


def _uniform(interval: tuple[Any, Any] | Sequence[float], u: np.ndarray) -> np.ndarray:
    low, high = interval
    return np.minimum(np.maximum(low + u * (high - low), low), high)  # np.clip, at a third of its overhead


def _two_sided(interval: Sequence[float], u: np.ndarray) -> np.ndarray:
    """Half the mass uniform below 1, half above; plainly uniform where 1 is not inside."""
    low, high = interval
    if not low <= 1 <= high:
        return _uniform(interval, u)
    return np.where(u < 0.5, _uniform((low, 1.0), 2 * u), _uniform((1.0, high), 2 * u - 1))


def _inside(interval: tuple[Any, Any] | Sequence[float], x: np.ndarray) -> np.ndarray:
    return (x >= interval[0]) & (x <= interval[1])


def _possible(probability: float, happened: np.ndarray) -> np.ndarray:
    return np.where(happened, probability > 0, probability < 1)


def _intervals_meet(a: tuple[float, float], b: tuple[float, float]) -> bool:
    low, high = max(a[0], b[0]), min(a[1], b[1])
    return low < high or (low == high and (a[0] == a[1] or b[0] == b[1]))

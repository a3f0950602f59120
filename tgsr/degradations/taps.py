"""Where a resized pixel comes from: positions and weights along one axis, for many rows at once, on any device."""

from __future__ import annotations

import torch

from tgsr.degradations.presets import RESIZE_MODES

_AREA, _BILINEAR, _BICUBIC = range(len(RESIZE_MODES))
_NUM_TAPS = {_BILINEAR: 2, _BICUBIC: 4}

Taps = tuple[torch.Tensor, torch.Tensor]


def num_taps(length: int, out_length: int, mode: int) -> int:
    """How many source pixels one output pixel has at most; `mode` is a place in `RESIZE_MODES`."""
    return _NUM_TAPS.get(mode) or length // out_length + (2 if length % out_length else 0)


def resize_taps(
    length: torch.Tensor,
    out_length: torch.Tensor,
    step: torch.Tensor,
    mode: torch.Tensor,
    *,
    num_out: int,
    taps: int,
) -> Taps:
    """One axis of `torch.nn.functional.interpolate` without antialiasing; R axes at once, without host synchronisation.

    Args:
        length, out_length: `(R,)` int64 pixels before and after.
        step: `(R,)` float32 source pixels per output pixel (no meaning for `area`).
        mode: `(R,)` int64 places in `RESIZE_MODES`.
        num_out: output positions to give; those past a row's `out_length` repeat its last one.
        taps: at least `num_taps` of every row.

    Returns:
        index: `(R, num_out, taps)` int64 in [0, length).
        weights: the same shape, float64; 0 where a row needs fewer taps.
    """
    length, out_length, step = (x.view(-1, 1, 1) for x in (length, out_length, step))
    place = torch.minimum(torch.arange(num_out, device=length.device).view(1, -1, 1), out_length - 1)
    tap = torch.arange(taps, device=length.device)
    mode = mode.view(-1, 1, 1)
    index, weights = _taps_of(_AREA, place, tap, length, out_length, step)
    for other in (_BILINEAR, _BICUBIC):
        its_index, its_weights = _taps_of(other, place, tap, length, out_length, step)
        index, weights = (torch.where(mode == other, a, b) for a, b in ((its_index, index), (its_weights, weights)))
    return torch.minimum(index.clamp_min(0), length - 1), weights


def _taps_of(
    mode: int,
    place: torch.Tensor,
    tap: torch.Tensor,
    length: torch.Tensor,
    out_length: torch.Tensor,
    step: torch.Tensor,
) -> Taps:
    if mode == _AREA:
        first = torch.div(place * length, out_length, rounding_mode="floor")
        last = torch.div((place + 1) * length + out_length - 1, out_length, rounding_mode="floor")
        index = first + tap
        return index, (index < last) / (last - first).double()
    # float32 throughout, like torch: at a sharp edge the rounding of the position is visible
    centre = (place.float() + 0.5) * step - 0.5
    if mode == _BILINEAR:
        centre.clamp_min_(0)
    low = torch.floor(centre)
    part = (centre - low).double()
    if mode == _BILINEAR:
        return low.long() + tap, (1 - (part - tap).abs_()).clamp_min_(0)
    return low.long() + (tap - 1), _cubic((part + 1 - tap).abs_())


def _cubic(x: torch.Tensor) -> torch.Tensor:
    """Weight at distance `x` for a = -0.75 (torch and OpenCV)."""
    a = -0.75
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))

"""Tasks as boxes of the second-order space (Controlled Data Rebalancing, section 3.1, appendix A.1, tables 6-9)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

from tgsr.degradations.base import Space
from tgsr.degradations.second_order import RANGE_KEYS, SecondOrderSpace
from tgsr.tasks.sets import TASK_SETS
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean

Ranges = dict[str, list[float]]
Union = Literal["ranges", "volume", "any"]

OPERATORS: dict[str, tuple[str, ...]] = {
    "blur": ("blur_sigma", "blur_sigma2"),
    "noise": ("noise_range", "noise_range2", "poisson_scale_range", "poisson_scale_range2"),
    "resize": ("resize_range", "resize_range2"),
    "jpeg": ("jpeg_range", "jpeg_range2"),
}
"""Operator -> the ranges of both stages that set its severity. They are cut together, so a task is as severe in the
second stage as in the first (tables 6-9)."""

PRESETS = ("cdr2", "cdr3", "cdr4", "cdr5")


def cut_ranges(box: Mapping[str, Sequence[float]], operator: str, cuts: Sequence[float]) -> list[Ranges]:
    """The ranges of one operator cut at the given places.

    Args:
        box: range name -> `(low, high)` of at least the operator's ranges.
        operator: key of `OPERATORS`, or the name of one range.
        cuts: parts of each range's length in (0, 1), ascending; `[0.5]` halves it.

    Returns:
        One more than cuts: range name -> `[low, high]`, from the lowest values to the highest.

    Raises:
        ConfigError: an unknown operator, a cut that leaves an empty part, or a range of no length.
    """
    keys = OPERATORS.get(operator) or ((operator,) if operator in RANGE_KEYS else ())
    if not keys:
        known = [*OPERATORS, *RANGE_KEYS]
        raise ConfigError(f"there is no operator '{operator}'", remedy=did_you_mean(operator, known))
    edges = [0.0, *cuts, 1.0]
    if any(b <= a for a, b in itertools.pairwise(edges)):
        raise ConfigError(
            f"cuts {list(cuts)} of '{operator}' leave an empty box",
            remedy="give ascending parts of the range, each between 0 and 1",
        )
    for key in keys:
        if box[key][0] == box[key][1]:
            raise ConfigError(f"'{key}' is fixed at {box[key][0]:g} and cannot be cut", remedy="widen the space")
    return [{key: [_at(box[key], a), _at(box[key], b)] for key in keys} for a, b in itertools.pairwise(edges)]


def _at(interval: Sequence[float], part: float) -> float:
    low, high = interval
    return high if part == 1 else round(low + part * (high - low), 12)


def partition(space: SecondOrderSpace, cuts: Mapping[str, Sequence[float]]) -> list[Ranges]:
    """Every combination of the parts of the chosen operators, the first operator varying fastest."""
    parts = [cut_ranges(space.box(), operator, places) for operator, places in cuts.items()]
    boxes = []
    for chosen in itertools.product(*reversed(parts)):
        ranges: Ranges = {}
        for part in reversed(chosen):
            twice = ranges.keys() & part.keys()
            if twice:
                raise ConfigError(f"'{min(twice)}' is cut twice", remedy="name the operator or its range, not both")
            ranges.update(part)
        boxes.append(ranges)
    return boxes


def preset_boxes(preset: str, space: SecondOrderSpace) -> dict[str, Ranges]:
    """The boxes of a preset inside `space` (meant for `preset: cdr`).

    `cdr4` is the paper's: blur and noise halved. The paper gives no boundaries for the other numbers of table 5; ours
    merge or split its boxes: `cdr2` halves the noise alone, `cdr3` keeps mild and blur and has one box of high noise,
    `cdr5` halves the noise of severe once more.
    """
    if preset not in PRESETS:
        raise ConfigError(f"there is no partition '{preset}'", remedy=did_you_mean(preset, PRESETS))
    if preset == "cdr2":
        low, high = partition(space, {"noise": [0.5]})
        return {"low_noise": low, "high_noise": high}
    halves = partition(space, {"blur": [0.5], "noise": [0.5]})
    four = dict(zip(("mild", "blur", "noise", "severe"), halves, strict=True))
    if preset == "cdr3":
        return {"mild": four["mild"], "blur": four["blur"], "noise": cut_ranges(space.box(), "noise", [0.5])[1]}
    if preset == "cdr5":
        severe = four.pop("severe")
        first, second = cut_ranges(severe, "noise", [0.5])
        return {**four, "severe": {**severe, **first}, "extreme": {**severe, **second}}
    return four


def coverage(boxes: Mapping[str, SecondOrderSpace], space: SecondOrderSpace) -> float:
    """Share of the volume of the space's ranges that disjoint boxes fill; ranges of no length do not count."""
    whole = {k: v for k, v in space.box().items() if v[1] > v[0]}
    total = 0.0
    for box in boxes.values():
        share = 1.0
        for key, (low, high) in whole.items():
            a, b = box.box()[key]
            share *= (b - a) / (high - low)
        total += share
    return total


def check_boxes(boxes: Mapping[str, SecondOrderSpace], space: SecondOrderSpace, *, union: Union = "ranges") -> None:
    """Refuse boxes that overlap, or whose union is not what was asked for.

    Args:
        boxes: by task name.
        space: what they are parts of.
        union: `ranges`: every range of the space, taken alone, is covered without a gap. `volume`: so is their
            product. The paper's four boxes fill 1/16 of it: low blur in stage 1 never meets high blur in stage 2.
            `any`: not checked.

    Raises:
        ConfigError: with the two boxes that overlap, or the part of the range that none covers.
    """
    for (a, first), (b, second) in itertools.combinations(boxes.items(), 2):
        if first.overlaps(second):
            raise ConfigError(
                f"boxes '{a}' and '{b}' overlap", remedy="a sample would have two tasks: part them along some range"
            )
    if union == "any":
        return
    for key, (low, high) in space.box().items():
        gap = _first_gap([box.box()[key] for box in boxes.values()], low, high)
        if gap is not None:
            raise ConfigError(
                f"no box covers {gap[0]:g} to {gap[1]:g} of {key} [{low:g}, {high:g}]",
                remedy="widen a box, narrow degradation.space to what is trained on, or set union: any",
            )
    share = coverage(boxes, space)
    if union == "volume" and share < 1 - 1e-9:
        raise ConfigError(
            f"the boxes fill {share:.4g} of the space", remedy="cut single ranges, or set union: ranges"
        )


def _first_gap(intervals: Sequence[tuple[float, float]], low: float, high: float) -> tuple[float, float] | None:
    slack, reached = 1e-9 * max(1.0, abs(high)), low
    for a, b in sorted(intervals):
        if a > reached + slack:
            return reached, a
        reached = max(reached, b)
    return (reached, high) if reached < high - slack else None


@TASK_SETS.register("Partition")
def partition_tasks(
    *,
    space: Space | None,
    preset: str | None = None,
    cuts: dict[str, list[float]] | None = None,
    boxes: dict[str, dict[str, list[float]]] | None = None,
    names: list[str] | None = None,
    union: Union = "ranges",
) -> TaskSet:
    """The space cut into boxes, one task each. Exactly one of `preset`, `cuts` and `boxes` says how.

    Args:
        space: the run's space.
        preset: `cdr2`, `cdr3`, `cdr4` or `cdr5`; the space must be `preset: cdr`, or another with those ranges.
        cuts: operator (`blur`, `noise`, `resize`, `jpeg`) or range name -> places of the cuts as parts of its ranges;
            all combinations, the first operator varying fastest.
        boxes: task name -> range name -> `[low, high]`; ranges not named stay the space's.
        names: of the boxes of `cuts`, in their order. None: `blur0_noise1` and the like.
        union: what the boxes must cover: `ranges`: every range of the space, taken alone; `volume`: their product;
            `any`: nothing.
    """
    if not isinstance(space, SecondOrderSpace):
        raise ConfigError("a partition needs a second-order space", remedy="set degradation.space: {type: SecondOrder}")
    if sum(x is not None for x in (preset, cuts, boxes)) != 1:
        raise ConfigError("a partition needs exactly one of preset, cuts and boxes")
    if names is not None and cuts is None:
        raise ConfigError("names belong to cuts", remedy="the other partitions name their boxes themselves")
    if preset is not None:
        chosen = preset_boxes(preset, space)
    elif cuts is not None:
        chosen = _named(partition(space, cuts), cuts, names)
    else:
        assert boxes is not None
        chosen = boxes
    if not chosen:
        raise ConfigError("a partition needs at least one box")
    made = {}
    for name, ranges in chosen.items():
        try:
            made[name] = space.restrict(**ranges)
        except ConfigError as error:
            raise ConfigError(f"box '{name}': {error}") from None
    check_boxes(made, space, union=union)
    source = {"kind": "partition", "space": space.to_json(), "boxes": chosen, "coverage": coverage(made, space)}
    return TaskSet([Task(name, box) for name, box in made.items()], source=source)


def _named(
    boxes: Sequence[Ranges], cuts: Mapping[str, Sequence[float]], names: Sequence[str] | None
) -> dict[str, Ranges]:
    if names is None:
        counts = [range(len(c) + 1) for c in cuts.values()]
        places = [tuple(reversed(p)) for p in itertools.product(*reversed(counts))]
        names = ["_".join(f"{op}{i}" for op, i in zip(cuts, place, strict=True)) for place in places]
    if len(names) != len(boxes) or len(set(names)) != len(names):
        raise ConfigError(f"{len(boxes)} boxes need {len(boxes)} different names, not {list(names)}")
    return dict(zip(names, boxes, strict=True))

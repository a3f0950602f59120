"""The plan of a study: what each stage still has to do, how long that will take, how much disk it needs.

Times come from an earlier start of the same stage, or from a rehearsal (`--rehearse`) of it: what one unit of the
stage's budget took there, times the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tgsr.config.options import input_paths
from tgsr.config.schema import Options
from tgsr.engine.runner import Runner, State, cost_form, stage_state
from tgsr.utils.errors import DataError
from tgsr.utils.files import read_json
from tgsr.utils.text import clock

REHEARSAL = "rehearsal"
"""Folder of rehearsals below the experiments and the results."""


@dataclass
class Entry:
    """One stage of a plan.

    Attributes:
        name: of the stage.
        state: how far it is.
        units, unit: its budget.
        seconds: how long it takes, or took; None: unknown.
        gib: disk that it needs; None: unknown.
        is_measured: the time is that of this very stage, not projected.
        where: ranks and device that the time is of.
    """

    name: str
    state: State
    units: float
    unit: str
    seconds: float | None
    gib: float | None
    is_measured: bool = False
    where: str = ""

    @property
    def is_done(self) -> bool:
        return self.state.word == "done"

    @property
    def budget(self) -> str:
        """`20,000 iterations`."""
        return f"{self.units:,.0f} {self.unit}"


class Plan:
    """The stages of a study, in order.

    Args:
        runners: the stages.
    """

    def __init__(self, runners: Sequence[Runner]) -> None:
        self.entries: list[Entry] = []
        waiting: dict[Path, str] = {}
        for runner in runners:
            entry = _entry(runner)
            above = None if not entry.is_done else _first_below(runner, waiting)
            if above is not None:
                entry.state = replace(entry.state, word="stale", why=f"{above} is to be done first")
            if not entry.is_done:
                waiting |= dict.fromkeys(map(Path.absolute, runner.outputs()), runner.options.name)
            self.entries.append(entry)

    def note(self, number: int, runner: Runner) -> None:
        """A stage has just been done."""
        self.entries[number] = _entry(runner)

    def seconds_left(self, first: int = 0) -> float | None:
        """Of the stages from `first` on that are not done; None where the time of one of them is unknown."""
        known = [e.seconds for e in self.entries[first:] if not e.is_done]
        return None if None in known else sum(s for s in known if s is not None)

    def lines(self) -> list[str]:
        """A table for people: stage, state, budget, time, disk; and the sums."""
        rows = [("stage", "state", "budget", "time", "disk")]
        for e in self.entries:
            gib = "?" if e.gib is None else f"{e.gib:.2g} GiB"
            state = f"{e.state.word} ({e.state.why})" if e.state.why else e.state.word
            rows.append((e.name, state, e.budget, "?" if e.seconds is None else clock(e.seconds), gib))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        text = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
        return [*text, self.summary()]

    def summary(self) -> str:
        """One line."""
        todo = [e for e in self.entries if not e.is_done]
        known = [e.seconds for e in todo if e.seconds is not None]
        time = f"{clock(sum(known))} for {len(known)} of them" if known else "their time is unknown"
        hint = "" if len(known) == len(todo) else "; --rehearse measures the others"
        done = len(self.entries) - len(todo)
        where = ", ".join(sorted({e.where for e in todo if e.where and e.seconds is not None}))
        on = f", as on {where}" if where else ""
        return f"{len(self.entries)} stages, {done} done, {len(todo)} to do: {time}{on}{hint}" if todo else "all done"


def _entry(runner: Runner) -> Entry:
    options = runner.options
    state = stage_state(options, is_in_chain=True)
    units, unit = runner.units()
    cost = state.marker.get("cost")
    is_measured = isinstance(cost, Mapping) and cost.get("units") == units and cost.get("is_whole", True)
    if not is_measured:
        cost = _cost_of(Path(options.path.experiments_root) / REHEARSAL / options.name, options) or cost
    seconds, gib, where = None, None, ""
    if isinstance(cost, Mapping) and cost.get("unit", unit) == unit:  # of a sweep whose tasks are not made: unknown
        seconds = cost["seconds"] if is_measured else project(cost, units)
        where = f"{cost['ranks']} rank{'s' if cost['ranks'] > 1 else ''} ({cost['device']})" if "ranks" in cost else ""
        gib = cost.get("disk_gib", 0.0) * runner.files_kept() / max(cost.get("files_kept", 1), 1)
    return Entry(options.name, state, units, unit, seconds, gib, is_measured, where)


def _first_below(runner: Runner, folders: Mapping[Path, str]) -> str | None:
    """The stage in one of whose folders lies what a stage reads."""
    for _, path in input_paths(runner.used_options()):
        found = next((name for folder, name in folders.items() if path.absolute().is_relative_to(folder)), None)
        if found not in (None, runner.options.name):
            return found
    return None


def project(cost: Mapping[str, Any], units: float) -> float | None:
    """Seconds for so many units, from what a stage took for fewer: the time to start counts once.

    None where only a last start is known, which went on with what others had done.
    """
    per_unit = cost.get("seconds_per_unit")
    if per_unit is None and not cost.get("is_whole", True):
        return None
    if per_unit is None:
        return cost["seconds"] / max(cost["units"], 1) * units
    start = max(0.0, cost["seconds"] - per_unit * cost["units"])
    return start + per_unit * units


def _cost_of(folder: Path, options: Options) -> Mapping[str, Any] | None:
    """What a rehearsal took; None where it had other networks or crops, as a tiny one."""
    try:
        cost = read_json(folder / "stage.json").get("cost")
    except DataError:
        return None
    return cost if isinstance(cost, Mapping) and cost.get("form") in (None, cost_form(options)) else None

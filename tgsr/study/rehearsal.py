"""The rehearsal: every stage of a study for real at its smallest budget, ten minutes before a thousand GPU hours.

It lies in `experiments/rehearsal/` and `results/rehearsal/` and ends with a page: what failed, the peak memory of each
stage, what a unit of its budget takes, and so what the whole study will take.
"""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tgsr.config.options import to_plain
from tgsr.config.overrides import apply_overrides
from tgsr.config.schema import Options, Source
from tgsr.config.spec import Kind, Spec, freeze
from tgsr.engine.runner import RUNNERS, run_stage
from tgsr.engine.smallest import narrow, tiny
from tgsr.models.zoo import ZOO
from tgsr.report.builder import Report
from tgsr.report.tables import Column, Row, Table
from tgsr.study.plan import REHEARSAL, Plan
from tgsr.study.study import Stages, Study
from tgsr.utils.errors import UserError
from tgsr.utils.text import clock

logger = logging.getLogger("tgsr")


@dataclass
class Outcome:
    """What became of one stage: `ok`, `failed` or `left out`, and why."""

    name: str
    word: str
    why: str = ""


def published_networks() -> dict[str, Spec]:
    """Name below `weights/` -> its network."""
    networks = Kind("tgsr.archs:ARCHS")
    return {name: Spec(networks, entry.network, freeze(dict(entry.settings))) for name, entry in ZOO.items()}


class Rehearsal(Study):
    """A study with every stage at its smallest budget, in folders of its own.

    Args:
        study: the study at full size.
        is_tiny: narrow networks and small crops, too, and stand-ins for published weights.
    """

    def __init__(self, study: Study, *, is_tiny: bool) -> None:
        path = study.options.path
        roots = {key: getattr(path, key) / REHEARSAL for key in ("experiments_root", "results_root")}
        overrides = [f"path.{key}={root}" for key, root in roots.items()]
        source = study.source
        data = source.data.copy()
        apply_overrides(data, overrides)
        self.weights = roots["experiments_root"] / "weights" if is_tiny else None
        moved = {} if self.weights is None else {"weights/": f"{self.weights}/"}
        Stages.__init__(self, options=replace(study.options, path=replace(path, **roots)), context=study.context)
        self.source = Source(data, (*source.overrides, *overrides), moved)
        self.study, self.is_tiny, self.outcomes = study, is_tiny, list[Outcome]()

    def load(self) -> list[Options]:
        return [self._smallest(options) for options in super().load()]

    def _smallest(self, options: Options) -> Options:
        runner = RUNNERS.get("Train" if options.run is None else options.run.type)
        options = runner.smallest(options)
        return tiny(options) if self.is_tiny else options

    def run(self) -> None:
        """All stages; one that fails is told, and those that need it are left out."""
        self.context.auto_resume = True
        if self.weights is not None and self.context.is_main:
            self._make_weights(self.weights)
        self.context.barrier()
        outcomes: dict[str, Outcome] = {}
        for options, branch in zip(self.stages, self.branches, strict=True):
            missing = [key.name for key in branch.needs if outcomes[key.name].word != "ok"]
            if missing:
                outcomes[options.name] = Outcome(options.name, "left out", f"needs {missing[0]}")
                continue
            logger.info("rehearsing %s (%d of %d)", options.name, len(outcomes) + 1, len(self.branches))
            outcomes[options.name] = self._try(options)
            if self.context.should_stop():
                return
        self.outcomes = list(outcomes.values())
        if self.context.is_main:
            self._report()
        self.context.barrier()

    def _try(self, options: Options) -> Outcome:
        try:
            run_stage(options, self.context, is_in_chain=True)
        except Exception as error:
            if self.context.world_size > 1:
                raise  # the other ranks may not have failed, and would wait for this one
            if not isinstance(error, UserError):
                logger.error("%s", traceback.format_exc())
            return Outcome(options.name, "failed", str(error).splitlines()[0] if str(error) else repr(error))
        return Outcome(options.name, "ok")

    def _make_weights(self, folder: Path) -> None:
        """Random weights of narrow networks under the names of those published ones that the stages name."""
        named = " ".join(str(to_plain(options)) for options in self.stages)
        for name, network in published_networks().items():
            path = folder / f"{name}.pth"
            if path.name in named and not path.exists():
                torch.manual_seed(0)
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save({"params": narrow(network).build().state_dict()}, path)

    def _report(self) -> None:
        plan = Plan(self.study.runners())
        report = Report(f"Rehearsal of {self.options.name}", subtitle=plan.summary())
        report.section("Stages").add_table("stages", rehearsal_table(self.outcomes, plan, Plan(self.runners())))
        logger.info("rehearsal: %s", report.write(self.results))

    @property
    def failed(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.word != "ok"]


def rehearsal_table(outcomes: list[Outcome], plan: Plan, rehearsed: Plan) -> Table:
    """Stage | what became of it | what it took | memory | what a unit takes | the full run, projected."""
    columns = [
        Column("outcome"), Column("took"), Column("memory", "peak memory"), Column("unit", "per unit"),
        Column("budget", "full budget"), Column("time", "full time"), Column("disk", "full disk"),
    ]  # fmt: skip
    rows = []
    for outcome, full, small in zip(outcomes, plan.entries, rehearsed.entries, strict=True):
        cost = small.state.marker.get("cost") or {}
        per_unit = cost.get("seconds_per_unit")
        cells = {
            "outcome": outcome.word if not outcome.why else f"{outcome.word}: {outcome.why}",
            "took": clock(cost["seconds"]) if cost else "",
            "memory": f"{cost['peak_memory_gib']:.2f} GiB" if cost else "",
            "unit": "" if per_unit is None else f"{per_unit:.3g} s",
            "budget": full.budget,
            "time": "unknown" if full.seconds is None else clock(full.seconds),
            "disk": "" if full.gib is None else f"{full.gib:.2g} GiB",
        }
        rows.append(Row(outcome.name, cells, is_ranked=False))
    return Table(columns, rows, row_head="Stage", caption="")

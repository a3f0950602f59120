"""What an option file may name: the kinds of components, their entries with a line each, and the arguments of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tgsr.config import schema
from tgsr.config.bind import Parameter, describe_type, signature_of
from tgsr.config.json_schema import argument_notes, first_line
from tgsr.config.spec import Kind
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean

KINDS: Mapping[str, Kind] = {
    "networks": schema.NetworkSpec.__metadata__[0],
    "losses": schema.LossSpec.__metadata__[0],
    "gan_losses": schema.GanLossSpec.__metadata__[0],
    "metrics": schema.MetricSpec.__metadata__[0],
    "degradations": schema.SpaceSpec.__metadata__[0],
    "named_degradations": Kind("tgsr.degradations.named:NAMED"),
    "datasets": schema.DatasetSpec.__metadata__[0],
    "optimizers": schema.OptimizerSpec.__metadata__[0],
    "schedulers": schema.SchedulerSpec.__metadata__[0],
    "task_sets": schema.TaskSetSpec.__metadata__[0],
    "task_samplers": schema.TaskSamplerSpec.__metadata__[0],
    "loss_weightings": schema.LossWeightingSpec.__metadata__[0],
    "stages": schema.RunnerSpec.__metadata__[0],
}


@dataclass(frozen=True)
class Component:
    """One entry.

    Attributes:
        kind: key of `KINDS`.
        summary: the first line of its docstring.
        arguments: those that an option file may give, `name: type = default` -> what it means.
    """

    kind: str
    name: str
    summary: str
    arguments: Mapping[str, str]


def list_components(kind: str | None = None) -> dict[str, list[Component]]:
    """All entries by kind, or those of one kind.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"there is no kind of component '{kind}'", remedy=did_you_mean(kind, KINDS))
    wanted = KINDS if kind is None else {kind: KINDS[kind]}
    return {key: [_component(key, name) for name in found.table().names()] for key, found in wanted.items()}


def find_component(name: str) -> list[Component]:
    """Everything that is called `name`, of whichever kind.

    Raises:
        ConfigError: nothing is; with the nearest names.
    """
    tables = {key: kind.table() for key, kind in KINDS.items()}
    found = [_component(key, table.name_of(name)) for key, table in tables.items() if name in table]
    if not found:
        known = {*KINDS, *(n for table in tables.values() for n in table.names())}
        raise ConfigError(f"there is nothing called '{name}' to list", remedy=did_you_mean(name, known))
    return found


def _component(kind: str, name: str) -> Component:
    entry, given = KINDS[kind].table().get(name), KINDS[kind].runtime
    notes = argument_notes(entry)
    parameters = [p for p in signature_of(entry).parameters.values() if p.name not in given]
    return Component(kind, name, first_line(entry), {_argument(p): notes.get(p.name, "") for p in parameters})


def _argument(parameter: Parameter) -> str:
    default = "" if parameter.required else f" = {parameter.default!r}"
    return f"{parameter.name}: {describe_type(parameter.annotation)}{default}"

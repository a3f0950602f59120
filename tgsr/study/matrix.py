"""The study file: stages by axes -> the option file of every branch, in the order in which they can run.

A study file is an ordinary option file with `run: {type: Study, axes: ..., stages: ..., only: ...}`. Four words are
all it adds. An **axis** is a list of values of one option, or a mapping of labels to partial options and `$names`.
A **stage** is a partial option file; `over: [axis, ...]` multiplies it. A **reference** `@stage` is the product of
another stage. A **branch** is one stage under one label of each of its axes.

What is laid over what, the last winning: the study's own sections, the `_base_` files of the stage, those and the
options of its axes, the stage itself, the command line.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tgsr.config.bind import join_problems
from tgsr.config.options import bind_options, folder_of
from tgsr.config.overrides import apply_overrides, parse_override
from tgsr.config.schema import Options, PathOptions, Source
from tgsr.config.yaml_loader import BASE_KEY, COMMAND_LINE, PlacedDict, load_yaml, merge
from tgsr.engine.runner import RUNNERS
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean

A, B = TypeVar("A"), TypeVar("B")
Labels = Mapping[str, str]
"""Axis -> label."""
OPTION_OF_AXIS = {"seed": "manual_seed"}
"""Short names of axes over one option; others are dotted keys."""
_NAME = r"[A-Za-z0-9_.+-]+"
_REFERENCE = re.compile(rf"@(?:({_NAME}):)?({_NAME})(?:\[([^\]]*)\])?(?:/(.+))?")


@dataclass(frozen=True)
class Axis:
    """Label -> partial options, and label -> `$name` -> its place and value."""

    name: str
    branches: Mapping[str, PlacedDict]
    variables: Mapping[str, Mapping[str, tuple[str, Any]]]


@dataclass(frozen=True)
class Key:
    """Which branch: study, stage, and the label of each axis of the stage, in its order."""

    study: str
    stage: str
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Of its folders: `<study>/<stage>[-<labels>]`."""
        return f"{self.study}/" + "-".join([self.stage, *(re.sub(r"[^\w.+-]", "_", v) for _, v in self.labels)])

    def label(self, axes: Sequence[str]) -> str:
        """What tells this branch from others: `RealESRGAN`, `RealESRGAN#0` with a seed, or the seed alone."""
        shown = [(a, v) for a, v in self.labels if a in axes]
        text = "-".join(v for a, v in shown if a != "seed")
        seed = "".join(v for a, v in shown if a == "seed")
        return f"{text}#{seed}" if text and seed else text or seed


@dataclass
class Branch:
    """One stage under one label of each of its axes.

    Attributes:
        key: which.
        data: its option file, with places.
        needs: branches whose products it reads.
        place: where the stage is written.
    """

    key: Key
    data: PlacedDict
    place: str
    needs: set[Key] = field(default_factory=set)

    @property
    def runner(self) -> Any:
        """The class of the stage."""
        run = self.data.get("run") or "Train"
        try:
            return RUNNERS.get(run if isinstance(run, str) else run.get("type", "Train"))
        except ConfigError as error:
            raise ConfigError(error.problem, place=f"{self.place}.run", remedy=error.remedy) from None

    def product(self, file: str | None) -> str:
        """Path of the product, or of another file of the stage; `results` is the stage's folder of results."""
        runner, paths = self.runner, self.data.get("path") or {}
        in_results = runner.in_results
        if file is not None and file.split("/")[0] == "results":
            in_results, file = True, file.partition("/")[2]
        root = "results_root" if in_results else "experiments_root"
        folder = Path(str(paths.get(root, getattr(PathOptions(), root)))) / self.key.name
        return (folder / (runner.product if file is None else file)).as_posix()


class Matrix:
    """All branches of one study file.

    Args:
        source: the file as it was read.
        known: other studies by name, shared by those that refer to each other.
    """

    def __init__(self, source: Source, known: dict[str, Matrix] | None = None) -> None:
        self.data, self.run = source.data, source.data.section("run")
        self.name = str(self.data.get("name", ""))
        self.overrides = [t for t in source.overrides if parse_override(t)[0][0] not in ("run", "name")]
        self.moved = source.moved
        self.known = {} if known is None else known
        self.known[self.name] = self
        self.axes: dict[str, Axis] = dict(zip(axes := self._section("axes"), _for_all(axes, self._axis), strict=True))
        self.stages = list(self._section("stages"))
        self.over = dict(zip(self.stages, _for_all(self.stages, self._over), strict=True))
        keys = [
            Key(self.name, stage, tuple(zip(over, labels, strict=True)))
            for stage, over in self.over.items()
            for labels in itertools.product(*over.values())
        ]
        self._branches = dict(zip(keys, _for_all(keys, self._branch), strict=True))
        self._refuse_equal_names()
        self._is_resolved = False

    def options(self, *, debug: bool = False) -> list[tuple[Branch, Options]]:
        """The chosen branches and what they need, of other studies too, each after what it needs.

        Raises:
            ConfigError: the mistakes of all of them, a line each with file and line.
        """

        def load(branch: Branch) -> tuple[Branch, Options]:
            if branch.runner.runs_stages:
                problem, remedy = "a stage of a study runs no stages itself", "refer to the other study, @study:stage"
                raise ConfigError(problem, place=f"{branch.place}.run", remedy=remedy)
            try:
                return branch, bind_options(branch.data.copy(), debug=debug, notes=[])
            except ConfigError as error:
                raise join_problems([_of_branch(line, branch) for line in str(error).splitlines()]) from error

        return _for_all(self.ordered(), load)

    def ordered(self) -> list[Branch]:
        """See `options`; data only."""
        wanted: dict[Key, Branch] = {}
        queue = self.chosen()
        while queue:
            branch = queue.pop(0)
            if branch.key not in wanted:
                wanted[branch.key] = branch
                queue += [self.known[key.study].branch(key) for key in sorted(branch.needs, key=str)]
        place = {key: i for i, key in enumerate(itertools.chain.from_iterable(m.keys() for m in self.known.values()))}
        waiting = sorted(wanted.values(), key=lambda b: (b.key.study == self.name, place[b.key]))
        done: dict[Key, Branch] = {}
        while waiting:
            ready = next((b for b in waiting if b.needs <= done.keys()), None)
            if ready is None:
                raise _circle(waiting)
            done[ready.key] = ready
            waiting.remove(ready)
        return list(done.values())

    def keys(self) -> list[Key]:
        return list(self._branches)

    def branch(self, key: Key) -> Branch:
        """One branch, its references resolved."""
        self._resolve()
        return self._branches[key]

    def chosen(self) -> list[Branch]:
        """The branches that `only` names; all where it names none."""
        self._resolve()
        only = self.run.get("only")
        if only is None:
            return list(self._branches.values())
        place = f"{self.run.place_of('only')}: run.only"
        if not only:
            raise ConfigError("it names no stage", place=place, remedy="name some, or leave it out for all")
        found = _for_all(only, lambda entry: self._matching(entry, place))
        return [self._branches[key] for key in itertools.chain.from_iterable(found)]

    def _matching(self, entry: str, place: str) -> list[Key]:
        match = _REFERENCE.fullmatch("@" + entry.removeprefix("@"))
        if match is None or match[1] or match[4]:
            raise ConfigError(f"'{entry}' is not of the form stage or stage[label]", place=place)
        return self.find(match[2], match[3], {}, place)

    # ---- making

    def _section(self, key: str) -> PlacedDict:
        value = self.run.get(key)
        if value is None:
            return PlacedDict(place=self.run.place_of(key))
        if not isinstance(value, PlacedDict):
            raise ConfigError("expected entries of its own", place=f"{self.run.place_of(key)}: run.{key}")
        return value

    def _axis(self, name: str) -> Axis:
        section = self._section("axes")
        value, place = section[name], f"{section.place_of(name)}: run.axes.{name}"
        if isinstance(value, list) and value:
            if any(isinstance(v, (list, dict)) for v in value):
                remedy = f"write {name}: {{LABEL: {{{OPTION_OF_AXIS.get(name, name)}: ...}}, ...}}"
                raise ConfigError("values with entries of their own need labels", place=place, remedy=remedy)
            keys = OPTION_OF_AXIS.get(name, name).split(".")
            branches = {_label(v): _nested(keys, v, section.place_of(name)) for v in value}
            if len(branches) < len(value):
                raise ConfigError("two branches have one name", place=place, remedy="give each value once")
            return Axis(name, branches, {label: {} for label in branches})
        if not isinstance(value, PlacedDict) or not value:
            raise ConfigError("an axis needs values: a list, or labels with options", place=place)
        branches, variables = {}, {}
        for label, part in value.items():
            if part is not None and not isinstance(part, PlacedDict):
                raise ConfigError("expected options", place=f"{value.place_of(label)}: run.axes.{name}.{label}")
            part = PlacedDict(place=value.place_of(label)) if part is None else part.copy()
            names = [k for k in part if k.startswith("$")]
            variables[label] = {k[1:]: (part.place_of(k), part[k]) for k in names}
            for k in names:
                part.take(k)
            branches[label] = _with_bases(part)
        return Axis(name, branches, variables)

    def _over(self, name: str) -> dict[str, list[str]]:
        """Axis -> labels of a stage."""
        stages = self._section("stages")
        stage, place = stages[name], f"{stages.place_of(name)}: run.stages.{name}"
        if stages.place_of(name).startswith(COMMAND_LINE):  # a misspelt one would be a training of its own
            known = [s for s in stages if s != name]
            raise ConfigError(f"the file has no stage '{name}'", place=place, remedy=did_you_mean(name, known))
        if not re.fullmatch(_NAME, name):
            raise ConfigError("a stage's name has letters, digits and _ . + - only", place=place)
        if not isinstance(stage, PlacedDict):
            raise ConfigError("expected options of a stage", place=place, remedy="{} for the study's own")
        if "name" in stage:
            place = f"{stage.place_of('name')}: run.stages.{name}.name"
            raise ConfigError("a stage is called as its entry", place=place, remedy="remove it")
        over = stage.get("over") or []
        place = f"{stage.place_of('over')}: run.stages.{name}.over"
        if isinstance(over, str):
            over = [over]
        if not isinstance(over, dict) and not (isinstance(over, list) and all(isinstance(v, str) for v in over)):
            raise ConfigError("expected names of axes", place=place, remedy="[axis, ...] or {axis: [label, ...]}")
        over = over if isinstance(over, dict) else dict.fromkeys(over)
        return {axis: self._labels(axis, labels, place) for axis, labels in over.items()}

    def _labels(self, axis: str, labels: Any, place: str) -> list[str]:
        """Those of an axis that a stage is over."""
        if axis not in self.axes:
            raise ConfigError(f"there is no axis '{axis}'", place=place, remedy=did_you_mean(axis, self.axes))
        known = list(self.axes[axis].branches)
        chosen = known if labels is None else [_label(v) for v in (labels if isinstance(labels, list) else [labels])]
        if not chosen:
            raise ConfigError(f"no label of axis {axis} is named", place=place, remedy="null stands for all")
        for label in chosen:
            if label not in known:
                raise ConfigError(f"axis {axis} has no '{label}'", place=place, remedy=did_you_mean(label, known))
        return list(dict.fromkeys(chosen))

    def _branch(self, key: Key) -> Branch:
        stage, stages = key.stage, self._section("stages")
        own = stages[stage].copy()
        own.take("over")
        data = PlacedDict(place=self.data.place)
        for section, value in self.data.items():
            if section != "run":
                data.put(section, value, self.data.place_of(section))
        data = data.copy()
        for base in _bases(own):
            merge(data, base)
        for axis, label in key.labels:
            merge(data, self.axes[axis].branches[label])
        merge(data, own)
        apply_overrides(data, self.overrides)
        data.put("name", key.name, stages.place_of(stage))
        return Branch(key, data, f"{stages.place_of(stage)}: run.stages.{stage}")

    def _refuse_equal_names(self) -> None:
        seen: dict[str, Branch] = {}
        for branch in self._branches.values():
            other = seen.setdefault(branch.key.name, branch)
            if other is not branch:
                problem = f"this stage and {other.key.stage} would both lie in '{branch.key.name}'"
                raise ConfigError(problem, place=branch.place, remedy="give the stage or a label another name")

    # ---- references

    def _resolve(self) -> None:
        if self._is_resolved:
            return
        self._is_resolved = True

        def resolve(branch: Branch) -> None:
            try:
                branch.data = self._walk(branch.data, dict(branch.key.labels), branch, branch.data.place)
            except RecursionError:
                raise ConfigError("its $names stand for each other in a circle", place=branch.place) from None

        _for_all(self._branches.values(), resolve)

    def _walk(self, value: Any, labels: Labels, branch: Branch, place: str) -> Any:
        """`value` with labels, `$names` and references put in."""
        if isinstance(value, PlacedDict):
            return self._walk_entries(value, labels, branch)
        if isinstance(value, list):
            found = []
            for item in value:
                walked = self._walk(item, labels, branch, place)
                is_many = isinstance(item, str) and item.startswith("@") and isinstance(walked, PlacedDict)
                found += list(walked.values()) if is_many else [walked]
            return found
        if not isinstance(value, str):
            return value
        text = self._with_labels(value, labels)
        if text.startswith("$") and not text.startswith("${"):
            place, value = self._variable(text[1:], labels, place)
            return self._walk(value, labels, branch, place)
        if text.startswith("@"):
            return self._reference(text, labels, branch, place)
        moved = next((old for old in self.moved if text.startswith(old)), None)
        return text if moved is None else self.moved[moved] + text.removeprefix(moved)

    def _walk_entries(self, value: PlacedDict, labels: Labels, branch: Branch) -> PlacedDict:
        """A mapping; an entry whose key names an axis, `{net}-TG`, becomes one for each label of that axis."""
        result = PlacedDict(place=value.place)
        for key, item in value.items():
            place = value.place_of(key)
            free = [a for a in self.axes if f"{{{a}}}" in key and a not in labels]
            tried, problems = 0, []
            for chosen in itertools.product(*(self.axes[a].branches for a in free)):
                inner = {**labels, **dict(zip(free, chosen, strict=True))}
                try:
                    walked = self._walk(item, inner, branch, place)
                except NoBranchError as error:
                    if not free:
                        raise
                    problems.append(error)  # this label has no such branch: the row does not exist
                    continue
                tried += 1
                new = self._with_labels(key, inner)
                if new in result:
                    raise ConfigError(f"'{new}' is given twice", place=place)
                result.put(new, walked, place)
            if free and not tried:
                raise problems[0]
        return result

    def _with_labels(self, text: str, labels: Labels) -> str:
        for axis, label in labels.items():
            parts = re.split(rf"(?<!\$)\{{{re.escape(axis)}\}}", text)  # `${name}` is an entry of the file
            text = label.join(parts)
        return text

    def _variable(self, name: str, labels: Labels, place: str) -> tuple[str, Any]:
        """Place and value of a `$name`."""
        owners = [axis for axis in self.axes.values() if any(name in v for v in axis.variables.values())]
        for axis in owners:
            if axis.name in labels:
                known = axis.variables[labels[axis.name]]
                if name not in known:
                    problem = f"'${name}' is not given for {labels[axis.name]}"
                    raise NoBranchError(problem, place=place, remedy=f"add it to run.axes.{axis.name}")
                return known[name]
        if owners:
            remedy = f"add over: [{owners[0].name}]"
            raise ConfigError(f"'${name}' belongs to axis {owners[0].name}", place=place, remedy=remedy)
        known = {n for axis in self.axes.values() for v in axis.variables.values() for n in v}
        raise ConfigError(f"no axis gives '${name}'", place=place, remedy=did_you_mean(name, known))

    def _reference(self, text: str, labels: Labels, branch: Branch, place: str) -> Any:
        """The path of a product, or a mapping of all branches' where this stage is not over their axes."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            remedy = "@stage, @stage[label], @stage/file or @study:stage"
            raise ConfigError(f"'{text}' is no reference to a stage", place=place, remedy=remedy)
        study, stage, chosen, file = match.groups()
        matrix = self if study is None else self._other(study, place)
        keys = matrix.find(stage, chosen, labels, place)
        branch.needs.update(keys)
        products = [matrix._branches[key].product(file) for key in keys]
        if len(keys) == 1 and not self._is_many(matrix, stage, chosen, labels):
            return products[0]
        free = [a for a in matrix.over[stage] if len({dict(k.labels)[a] for k in keys}) > 1] or list(matrix.over[stage])
        result = PlacedDict(place=place)
        for key, product in zip(keys, products, strict=True):
            result.put(key.label(free), product, place)
        return result

    @staticmethod
    def _is_many(matrix: Matrix, stage: str, chosen: str | None, labels: Labels) -> bool:
        return chosen is None and any(axis not in labels for axis in matrix.over[stage])

    def find(self, stage: str, chosen: str | None, labels: Labels, place: str) -> list[Key]:
        """Branches of a stage that agree with the labels.

        Args:
            stage: name.
            chosen: what stands in brackets: labels, or `axis=label`, with commas between.
            labels: of the branch that refers to it.
            place: for messages.
        """
        if stage not in self.over:
            where = "" if len(self.known) == 1 else f" in study '{self.name}'"
            raise ConfigError(
                f"there is no stage '{stage}'{where}", place=place, remedy=did_you_mean(stage, self.stages)
            )
        wanted = {a: v for a, v in labels.items() if a in self.over[stage]}
        for part in self._parts(stage, chosen):
            owners, label = [a for a, known in self.over[stage].items() if part in known], part
            if not owners:
                axis, _, label = part.rpartition("=")
                owners = [a for a, known in self.over[stage].items() if label in known and a == axis]
            if len(owners) > 1:
                remedy = " or ".join(f"{axis}={label}" for axis in owners)
                raise ConfigError(f"'{label}' is a label of several axes", place=place, remedy=f"write {remedy}")
            if not owners:
                known = sorted({v for values in self.over[stage].values() for v in values})
                remedy = did_you_mean(label, known)
                raise NoBranchError(f"stage '{stage}' has no branch '{part}'", place=place, remedy=remedy)
            wanted[owners[0]] = label
        found = [k for k in self._branches if k.stage == stage and wanted.items() <= dict(k.labels).items()]
        if not found:
            shown = ", ".join(wanted.values())
            raise NoBranchError(f"stage '{stage}' has no branch '{shown}'", place=place, remedy="name one in brackets")
        return found

    def _parts(self, stage: str, chosen: str | None) -> list[str]:
        """Labels between brackets; one that has a comma itself is found as a whole."""
        if chosen is not None and any(chosen.strip() in known for known in self.over[stage].values()):
            return [chosen.strip()]
        return [part.strip() for part in (chosen or "").split(",") if part.strip()]

    def _other(self, name: str, place: str) -> Matrix:
        """Another study: `NAME.yml` or `NAME/paper.yml`, beside the file that names it or one folder above."""
        if name not in self.known:
            here = folder_of(place)
            paths = [f / p for f in (here, here / "..") for p in (f"{name}.yml", f"{name}/paper.yml")]
            found = next((p for p in paths if p.is_file()), None)
            if found is None:
                looked = ", ".join(str(p) for p in paths)
                raise ConfigError(f"there is no study '{name}'", place=place, remedy=f"looked for {looked}")
            data = load_yaml(found)
            apply_overrides(data, self.overrides)
            other = Matrix(Source(data, tuple(self.overrides), self.moved), self.known)
            if other.name != name:
                raise ConfigError(f"the study in {found} is called '{other.name}'", place=place)
        other = self.known[name]
        other._resolve()
        return other


class NoBranchError(ConfigError):
    """A reference to a branch that does not exist."""


def _for_all(items: Iterable[A], work: Callable[[A], B]) -> list[B]:
    """`work(item)` for every one; ConfigError with the problems of all, each once."""
    done: list[B] = []
    problems: dict[str, ConfigError] = {}
    for item in items:
        try:
            done.append(work(item))
        except ConfigError as error:
            problems.setdefault(str(error), error)
    if problems:
        raise join_problems(list(problems.values()))
    return done


def _label(value: Any) -> str:
    """As YAML spells it: `true`, not `True`."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _bases(part: PlacedDict) -> list[PlacedDict]:
    """The files that `_base_` of a partial option file names, relative to where it stands; the key is removed."""
    place = part.place_of(BASE_KEY)
    names = part.take(BASE_KEY, [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ConfigError("expected a file or a list of files", place=f"{place}: {BASE_KEY}")
    found = []
    for name in names:
        path = folder_of(place) / name
        if not path.is_file():
            raise ConfigError(f"no such option file '{name}'", place=f"{place}: {BASE_KEY}")
        found.append(load_yaml(path))
    return found


def _with_bases(part: PlacedDict) -> PlacedDict:
    merged = PlacedDict(place=part.place)
    for base in _bases(part):
        merge(merged, base)
    merge(merged, part)
    return merged


def _nested(keys: Sequence[str], value: Any, place: str) -> PlacedDict:
    for key in reversed(keys):
        outer = PlacedDict(place=place)
        outer.put(key, value, place)
        value = outer
    return value


def _of_branch(line: str, branch: Branch) -> ConfigError:
    """A mistake of one stage; one without a place of its own (command line) stands at the stage."""
    if line.startswith(COMMAND_LINE):
        return ConfigError(line.removeprefix(f"{COMMAND_LINE}: "), place=f"{COMMAND_LINE}: {branch.key.name}")
    return ConfigError(line)


def _circle(waiting: Sequence[Branch]) -> ConfigError:
    left = {b.key: b for b in waiting}
    path = [waiting[0]]
    while path[-1].key not in [b.key for b in path[:-1]]:
        path.append(left[min((k for k in path[-1].needs if k in left), key=str)])
    first = [b.key for b in path].index(path[-1].key)
    names = " -> ".join(b.key.name for b in path[first:])
    return ConfigError(f"stages wait for each other: {names}", place=path[-1].place)


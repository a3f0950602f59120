"""Plain data -> dataclasses and Specs: every key and value checked to the leaf, all problems of a file at once.

The argument names and types of a component are those of the registered class or function: there is no second list.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar, Union

from tgsr.config.spec import Kind, Output, Range, Spec, freeze
from tgsr.config.yaml_loader import PlacedDict, to_builtin
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean

T = TypeVar("T")
INTERNAL = "internal"  # metadata of dataclass fields that an option file cannot set
LATER = "later"  # of fields that are younger than files that we read: written out only where they are not None
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
LIST_TYPES = (list, tuple, set, frozenset, Sequence, Iterable)


class _Mismatch(Exception):  # noqa: N818 - not an error of the program: one union member did not fit
    """A value does not have the wanted type."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One argument of a component or one field of a section."""

    name: str
    annotation: Any
    required: bool
    default: Any = None


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a component accepts; `open` when it also takes arguments that it does not name (`**kwargs`)."""

    parameters: Mapping[str, Parameter]
    open: bool


def bind(data: PlacedDict, target: type[T], *, places: dict[str, str] | None = None) -> T:
    """Make `target` (a dataclass) from the data of an option file.

    Args:
        data: merged and translated data.
        target: the dataclass of the whole file.
        places: filled with dotted key -> `file:line` for later messages.

    Raises:
        ConfigError: one line for every unknown key, missing key and wrong value, ordered by place.
    """
    binder = _Binder({} if places is None else places)
    result = binder.section(data, target, "")
    if binder.problems:
        raise join_problems(binder.problems)
    return typing.cast(T, result)


def join_problems(problems: Sequence[ConfigError]) -> ConfigError:
    """One error that shows all, a line each, ordered by file and line."""
    unique = list({str(p): p for p in problems}.values())
    if len(unique) == 1:
        return unique[0]

    def order(problem: ConfigError) -> tuple[str, int]:
        match = re.match(r"(.*?):(\d+)", problem.place)
        return (match[1], int(match[2])) if match else (problem.place, 0)

    return ConfigError("\n".join(str(p) for p in sorted(unique, key=order)))


class _Binder:
    """Converts values and collects problems; `path` is the dotted key, `place` its `file:line`."""

    def __init__(self, places: dict[str, str]) -> None:
        self.problems: list[ConfigError] = []
        self.places = places

    def section(self, data: PlacedDict, target: type, path: str) -> Any:
        """A dataclass from a mapping; None where something required is missing or wrong."""
        known = section_parameters(target)
        values: dict[str, Any] = {}
        before = len(self.problems)
        for key, value in data.items():
            here, place = _join(path, key), data.place_of(key)
            self.places[here] = place
            if key not in known:
                deeper = [_join(_join(path, k), key) for k, v in data.items() if key in _keys(v)]
                remedy = f"did you mean {' or '.join(deeper)}?" if deeper else did_you_mean(key, known)
                self._problem(place, here, f"there is no option '{key}' here", remedy)
            elif value is None and not known[key].required and _is_container(known[key].annotation):
                continue  # `val:` with everything below it commented out
            else:
                values[key] = self._checked(value, known[key].annotation, here, place)
        for parameter in known.values():
            if parameter.required and parameter.name not in values and parameter.name not in data:
                self._problem(data.place, path, f"'{parameter.name}' is missing")
        return None if len(self.problems) > before else target(**values)

    def component(self, value: Any, kind: Kind, path: str, place: str) -> Spec | None:
        """A Spec from `{type: NAME, ...}` or a bare NAME, its arguments checked against the signature."""
        if isinstance(value, str):
            data = PlacedDict({"type": value}, place=place)
        elif isinstance(value, PlacedDict):
            data = value
        else:
            raise _Mismatch("a component, {type: NAME, ...}")
        table = kind.table()
        name = data.get("type")
        if not isinstance(name, str):
            what = "'type' is missing" if name is None else f"expected a name, got {_show(name)}"
            self._problem(place, path, what, f"name a {table.kind}: " + ", ".join(table.names()))
            return None
        type_place = data.place_of("type")
        try:
            entry = table.get(name)
        except ConfigError as error:
            here = f"{path}.type" if isinstance(value, PlacedDict) else path
            self._problem(type_place, here, error.problem, error.remedy)
            return None
        for key in data:
            self.places[_join(path, key)] = data.place_of(key)
        arguments = self._arguments(data, signature_of(entry), kind, path, name)
        return Spec(kind, table.name_of(name), freeze(arguments), f"{place}: {path}")

    def _arguments(self, data: PlacedDict, signature: Signature, kind: Kind, path: str, name: str) -> dict[str, Any]:
        allowed = {k: p for k, p in signature.parameters.items() if k not in kind.runtime}
        arguments: dict[str, Any] = {}
        for key, value in data.items():
            here, place = _join(path, key), data.place_of(key)
            if key == "type":
                continue
            if key in kind.runtime:
                self._problem(place, here, f"'{key}' comes from the program", "remove this line")
            elif key in allowed:
                arguments[key] = self._checked(value, allowed[key].annotation, here, place)
            elif signature.open:
                arguments[key] = to_builtin(value)
            else:
                remedy = did_you_mean(key, allowed) if allowed else "it takes no arguments"
                self._problem(place, here, f"{name} takes no '{key}'", remedy)
        missing = [p.name for p in allowed.values() if p.required and p.name not in data]
        for needed in missing:
            self._problem(data.place, path, f"{name} needs '{needed}'")
        return arguments

    def _checked(self, value: Any, wanted: Any, path: str, place: str) -> Any:
        try:
            return self.convert(value, wanted, path, place)
        except _Mismatch as error:
            self._problem(place, path, f"expected {error}, got {_show(value)}")
            return None

    def _problem(self, place: str, path: str, problem: str, remedy: str = "") -> None:
        self.problems.append(ConfigError(problem, place=f"{place}: {path}" if path else place, remedy=remedy))

    def convert(self, value: Any, wanted: Any, path: str, place: str) -> Any:
        """`value` as the annotated type `wanted`; `_Mismatch` names what was wanted."""
        wanted, marks = unwrap(wanted)
        if wanted is Spec:
            kind = next((m for m in marks if isinstance(m, Kind)), None)
            return to_builtin(value) if kind is None else self.component(value, kind, path, place)
        origin = typing.get_origin(wanted)
        if origin in (Union, types.UnionType):
            return self._union(value, typing.get_args(wanted), path, place)
        if origin is Literal:
            return _literal(value, typing.get_args(wanted))
        if wanted in (int, float):
            return _number(value, wanted, marks)
        if wanted is None or wanted is type(None):
            return _require(value is None, None, "null")
        if wanted is bool or wanted is str:
            return _require(isinstance(value, wanted), value, _NAMES[wanted])
        if wanted is Path:
            return _require(isinstance(value, str) and value != "", lambda: Path(value).expanduser(), "a path")
        base = origin or wanted
        if base in LIST_TYPES:
            return self._list(value, base, typing.get_args(wanted), path, place)
        if base in (dict, Mapping):
            return self._dict(value, typing.get_args(wanted), path, place)
        if dataclasses.is_dataclass(wanted):
            if not isinstance(value, PlacedDict):
                raise _Mismatch("a section with entries of its own")
            return self.section(value, typing.cast(type, wanted), path)
        return to_builtin(value)

    def _list(self, value: Any, base: Any, args: tuple[Any, ...], path: str, place: str) -> Any:
        if not isinstance(value, list):
            raise _Mismatch(describe_type(base[args] if args and base in (list, tuple) else list))
        if base is tuple and args and args[-1] is not Ellipsis:
            if len(value) != len(args):
                raise _Mismatch(f"a list of {len(args)}")
            wanted = list(args)
        else:
            wanted = [args[0] if args else Any] * len(value)
        items = [
            self._checked(v, w, f"{path}[{i}]", v.place if isinstance(v, PlacedDict) else place)
            for i, (v, w) in enumerate(zip(value, wanted, strict=True))
        ]
        return tuple(items) if base is tuple else base(items) if base in (set, frozenset) else items

    def _dict(self, value: Any, args: tuple[Any, ...], path: str, place: str) -> Any:
        if not isinstance(value, PlacedDict):
            raise _Mismatch("a section with entries of its own")
        wanted = args[1] if args else Any
        result = {}
        for key, item in value.items():
            here = _join(path, key)
            self.places[here] = value.place_of(key)
            name = self._key(key, args[0], here, value.place_of(key)) if args else key
            result[name] = self._checked(item, wanted, here, value.place_of(key))
        return freeze(result)

    def _key(self, key: str, wanted: Any, path: str, place: str) -> Any:
        """Keys are read as texts; `{1: a}` for `dict[int, str]` becomes a number again."""
        if wanted not in (int, float):
            return key
        try:
            return wanted(key)
        except ValueError:
            self._problem(place, path, f"expected {_NAMES[wanted]} as a key, got '{key}'")
            return None

    def _union(self, value: Any, members: tuple[Any, ...], path: str, place: str) -> Any:
        """The first member that fits, plain types that fit exactly before the others."""
        exact = [m for m in members if unwrap(m)[0] is type(value)]
        ordered = exact + [m for m in members if m not in exact]
        attempts: list[list[ConfigError]] = []
        for member in ordered:
            trial = _Binder(dict(self.places))
            try:
                result = trial.convert(value, member, path, place)
            except _Mismatch:
                continue
            if not trial.problems:
                self.places.update(trial.places)
                return result
            attempts.append(trial.problems)
        if attempts:  # the shape fits one member, its contents do not
            self.problems.extend(attempts[0])
            return None
        raise _Mismatch(describe_type(Union[members]))  # noqa: UP007 - members are known at run time only


def _number(value: Any, wanted: type, marks: tuple[Any, ...]) -> Any:
    limits = next((m for m in marks if isinstance(m, Range)), Range())
    name = f"{_NAMES[wanted]} {limits}".rstrip()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Mismatch(name)
    if wanted is int and isinstance(value, float) and not value.is_integer():  # 5e3 is a whole number
        raise _Mismatch(name)
    return _require(limits.admits(value), lambda: wanted(value), name)


def _literal(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if value == choice and isinstance(value, bool) == isinstance(choice, bool):
            return choice
    raise _Mismatch("one of " + ", ".join(_show(c) for c in choices))


def _require(condition: bool, value: Any, wanted: str) -> Any:
    if not condition:
        raise _Mismatch(wanted)
    return value() if callable(value) else value


def _show(value: Any) -> str:
    if isinstance(value, PlacedDict):
        return "a section"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(to_builtin(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def unwrap(wanted: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type inside `Annotated` and its marks."""
    if typing.get_origin(wanted) is Annotated:
        inner, *marks = typing.get_args(wanted)
        return inner, tuple(marks)
    return wanted, ()


def _is_container(wanted: Any) -> bool:
    wanted = unwrap(wanted)[0]
    return dataclasses.is_dataclass(wanted) or (typing.get_origin(wanted) or wanted) in (dict, Mapping)


def is_output(wanted: Any) -> bool:
    """Whether an annotation marks a path that the program writes."""
    inner, marks = unwrap(wanted)
    return any(isinstance(m, Output) for m in marks) or any(is_output(a) for a in typing.get_args(inner))


def describe_type(wanted: Any) -> str:
    """What a type looks like in an option file, in words."""
    inner, marks = unwrap(wanted)
    if inner is Spec:
        return "a component, {type: NAME, ...}"
    origin, args = typing.get_origin(inner), typing.get_args(inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe_type(a) for a in args if a is not type(None)))
    if origin is Literal:
        return "one of " + ", ".join(_show(a) for a in args)
    if inner is type(None):
        return "null"
    if (origin or inner) in LIST_TYPES:
        of = f" of {describe_type(args[0]).removeprefix('a ')}s" if args and typing.get_origin(args[0]) is None else ""
        return f"a list{of}"
    if (origin or inner) in (dict, Mapping) or dataclasses.is_dataclass(inner):
        return "a section with entries of its own"
    limits = next((f" {m}" for m in marks if isinstance(m, Range)), "")
    return _NAMES.get(inner, str(inner)) + limits


@cache
def section_parameters(target: type) -> dict[str, Parameter]:
    """The fields of a dataclass that an option file may set."""
    hints = typing.get_type_hints(target, include_extras=True)
    result = {}
    for f in dataclasses.fields(target):
        if f.init and not f.metadata.get(INTERNAL):
            has_default = f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
            default = None if f.default is dataclasses.MISSING else f.default
            result[f.name] = Parameter(f.name, hints[f.name], not has_default, default)
    return result


def signature_of(entry: Callable[..., Any]) -> Signature:
    """The arguments of a registered class or function.

    A class of this package that passes `**kwargs` on to its base class also has the arguments of that base, and is
    then closed: unknown names are errors. Any other `**kwargs` accepts every name.
    """
    own, is_open = _parameters(entry, entry)
    if not is_open or not inspect.isclass(entry):
        return Signature(own, is_open)
    for base in entry.__mro__[1:]:
        if "__init__" not in vars(base) or not base.__module__.startswith("tgsr."):
            continue
        inherited, is_open = _parameters(base, base)
        own = {**inherited, **own}
        if not is_open:
            break
    return Signature(own, is_open)


def _parameters(entry: Callable[..., Any], source: Any) -> tuple[dict[str, Parameter], bool]:
    try:
        signature = inspect.signature(entry)
    except (TypeError, ValueError):  # a builtin without a signature
        return {}, True
    hints = _hints(source)
    result, is_open = {}, False
    for p in signature.parameters.values():
        if p.kind is p.VAR_KEYWORD:
            is_open = True
        elif p.kind not in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY):
            annotation = hints.get(p.name, p.annotation)
            if annotation is p.empty or isinstance(annotation, str):
                annotation = Any
            elif p.default is None:
                annotation = Optional[annotation]  # noqa: UP007, UP045 - `|` does not take every annotation
            required = p.default is p.empty
            result[p.name] = Parameter(p.name, annotation, required, None if required else p.default)
    return result, is_open


def _hints(entry: Any) -> dict[str, Any]:
    """Resolved annotations; one that cannot be resolved (a name imported for type checkers only) is left out."""
    if inspect.isclass(entry):
        function = entry.__init__
        if dataclasses.is_dataclass(entry):
            return typing.get_type_hints(entry, include_extras=True)
    else:
        function = inspect.unwrap(entry)
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        pass
    hints = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(holder, function.__globals__, include_extras=True)
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue
    return hints

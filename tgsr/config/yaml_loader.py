"""Option files as plain data: safe YAML, the file and line of every key, `_base_` files merged.

Three differences from PyYAML: `1e-4` is a number, a key that occurs twice is an error, and nothing but `${name}` of a
root entry is ever replaced in a text (no environment variables).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean

COMMAND_LINE = "command line"
BASE_KEY = "_base_"
MAX_VALUES = 200_000
"""Of one file: a few aliases of aliases could otherwise stand for billions."""

_FLOAT = re.compile(
    r"""^(?:[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+
        |[-+]?[0-9][0-9_]*\.[0-9_]*
        |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
_INT = re.compile(r"^(?:[-+]?[0-9][0-9_]*|0x[0-9a-fA-F_]+)$")
_REFERENCE = re.compile(r"\$\{([^}]*)\}")


class PlacedDict(dict[str, Any]):
    """A mapping of an option file that knows where each of its keys was written.

    Attributes:
        place: `file:line` of the key that holds this mapping.
        places: key -> `file:line`.
    """

    def __init__(self, entries: Mapping[str, Any] | None = None, *, place: str = "") -> None:
        super().__init__(entries or {})
        self.place = place
        self.places: dict[str, str] = dict.fromkeys(self, place)

    def put(self, key: str, value: Any, place: str) -> None:
        """Set an entry and where it comes from."""
        self[key] = value
        self.places[key] = place

    def place_of(self, key: str) -> str:
        """`file:line` of a key, or of the whole mapping where the key has none."""
        return self.places.get(key, self.place)

    def take(self, key: str, default: Any = None) -> Any:
        """Remove an entry and return its value; its place is forgotten."""
        self.places.pop(key, None)
        return self.pop(key, default)

    def move(self, key: str, target: PlacedDict, new_key: str | None = None) -> None:
        """Move an entry, with its place, to another mapping or to another name.

        Two mappings are merged. The entry that is there already wins, unless the moved one comes from the command
        line or, being a mapping without a `type`, can only be meant as a change of it.
        """
        if key not in self:
            return
        place, value, new_key = self.place_of(key), self.take(key), new_key or key
        there = target.get(new_key)
        wins = place == COMMAND_LINE
        if isinstance(value, PlacedDict) and isinstance(there, PlacedDict):
            first, last = (there, value) if wins or "type" not in value else (value, there)
            merge(first, last)
            target[new_key] = first
        elif there is None or wins:
            target.put(new_key, value, place)

    def section(self, key: str) -> PlacedDict:
        """The mapping at `key`; made, with this mapping's place, where there is none or null."""
        if not isinstance(self.get(key), PlacedDict):
            self.put(key, PlacedDict(place=self.place_of(key)), self.place_of(key))
        return self[key]

    def copy(self) -> PlacedDict:
        """A deep copy of mappings and lists with all places."""
        return copy_tree(self)


def copy_tree(value: Any) -> Any:
    """A deep copy of plain data that keeps places."""
    if isinstance(value, PlacedDict):
        twin = PlacedDict(place=value.place)
        for key, item in value.items():
            twin.put(key, copy_tree(item), value.place_of(key))
        return twin
    if isinstance(value, list):
        return [copy_tree(item) for item in value]
    return value


def to_builtin(value: Any) -> Any:
    """Plain dicts and lists without places."""
    if isinstance(value, dict):
        return {key: to_builtin(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_builtin(item) for item in value]
    return value


class _Loader(yaml.SafeLoader):
    """SafeLoader with places, without duplicate keys, octal and base-60 numbers, and dates."""

    yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":int", ":float", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    file = ""

    def place(self, node: yaml.Node) -> str:
        return f"{self.file}:{node.start_mark.line + 1}"

    def construct_placed(self, node: yaml.MappingNode) -> PlacedDict:
        self._refuse_duplicates(node)
        self.flatten_mapping(node)
        result = PlacedDict(place=self.place(node))
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool)):
                raise ConfigError("a key must be a plain word", place=self.place(key_node))
            value = copy_tree(self.construct_object(value_node, deep=True))  # an alias must not share with its anchor
            if isinstance(value, PlacedDict):
                value.place = self.place(key_node)
            result.put(key if isinstance(key, str) else str(key_node.value), value, self.place(key_node))
        return result

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = str(self.construct_scalar(node)).replace("_", "")
        if text.lower().startswith("0x"):
            return int(text, 16)
        return int(text)

    def _refuse_duplicates(self, node: yaml.MappingNode) -> None:
        first: dict[str, str] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key_node.value in first:
                raise ConfigError(
                    f"'{key_node.value}' is given twice, first at {first[key_node.value]}",
                    place=self.place(key_node),
                    remedy="keep one of them",
                )
            first[key_node.value] = self.place(key_node)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_placed)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)


def parse_yaml(text: str, *, file: str) -> Any:
    """One YAML document.

    Args:
        text: the document.
        file: its name in places and messages.

    Raises:
        ConfigError: it is not valid YAML, or a key occurs twice; one line with file and line.
    """
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        loader.file = file
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded(node, {}) > MAX_VALUES:
            raise ConfigError(f"more than {MAX_VALUES:,} values, aliases counted", place=file)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}" if mark else file
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        remedy = "indent with spaces" if "\\t" in problem else ""
        raise ConfigError(f"not valid YAML: {problem}", place=place, remedy=remedy) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"not valid YAML: {error.reason}", place=f"{file}:{line}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"not valid YAML: {error}", place=file) from None
    finally:
        if loader is not None:
            loader.dispose()


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """Values of a node when every alias is written out."""
    if id(node) not in known:
        known[id(node)] = 1  # while it is counted: what holds itself is told by the constructor
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        inner = 0 if isinstance(node, yaml.ScalarNode) else sum(_expanded(part, known) for part in parts)
        known[id(node)] = 1 + inner
    return known[id(node)]


def load_yaml(path: Path | str) -> PlacedDict:
    """Read an option file and merge it over its `_base_` files.

    Raises:
        ConfigError: no such file, not valid YAML, not a mapping, or a circle of `_base_`.
    """
    return _load(Path(path), ())


def _load(path: Path, chain: tuple[Path, ...], asked_at: str = "") -> PlacedDict:
    shown = os.path.normpath(path)
    real = path.resolve()
    if real in chain:
        names = " -> ".join(p.name for p in (*chain[chain.index(real) :], real))
        raise ConfigError(f"_base_ files form a circle: {names}", place=asked_at or shown)
    text = _read(path, asked_at)
    try:
        data = parse_yaml(text, file=shown)
        if not isinstance(data, PlacedDict):
            what = "the file is empty" if data is None else f"expected 'key: value' lines, got {data!r:.40}"
            raise ConfigError(what, place=shown)
    except ConfigError as error:
        if kind := _other_format(text):
            remedy = "write its options as 'key: value' lines; docs/options.md has the names"
            raise ConfigError(f"this is {kind}; option files are YAML", place=error.place, remedy=remedy) from None
        raise
    data.place = shown
    base_place = data.place_of(BASE_KEY)
    bases = data.take(BASE_KEY, [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(b, str) for b in bases):
        raise ConfigError("expected a file or a list of files", place=f"{base_place}: {BASE_KEY}")
    merged = PlacedDict(place=shown)
    for base in bases:
        merge(merged, _load(path.parent / base, (*chain, real), f"{base_place}: {BASE_KEY}"))
    merge(merged, data)
    return merged


def _other_format(text: str) -> str:
    """Which other format a text that is no YAML mapping seems to be, by its first lines; empty for none."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    if not lines:
        return ""
    if lines[0].startswith("{"):
        return "JSON with comments" if re.search(r"//|/\*", text) else "JSON that is not valid"
    if re.match(r"(import|from|class|def)\s|\w+\s*=\s*(dict|\w+)\(", lines[0]):
        return "a Python file"
    if re.match(r"(\[\[?[\w.\"-]+\]\]?|[\w.\"-]+\s*=\s*\S.*)$", lines[0]):
        return "TOML"
    return "XML" if lines[0].startswith("<") else ""


def _read(path: Path, asked_at: str) -> str:
    place = asked_at or str(path)
    named = f" '{path}'" if asked_at else ""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"no such option file{named}", place=place) from None
    except UnicodeDecodeError:
        raise ConfigError(f"the file{named} is not UTF-8 text", place=place) from None
    except OSError as error:
        raise ConfigError(f"the file{named} cannot be read: {error.strerror}", place=place) from None


def merge(base: PlacedDict, child: PlacedDict) -> None:
    """Lay `child` over `base`, in place.

    Mappings are merged, lists and scalars replaced, a key that the child sets to null is removed. Where both name a
    component and its `type` changes, nothing of the base's component is kept.
    """
    for key, value in child.items():
        place = child.place_of(key)
        old = base.get(key)
        if isinstance(old, str) and isinstance(value, PlacedDict) and value.get("type", old) == old:
            component = PlacedDict(place=base.place_of(key))  # `scheduler: Cosine` in the base is {type: Cosine}
            component.put("type", old, base.place_of(key))
            old = component
            base.put(key, old, base.place_of(key))
        if value is None and key in base:
            base.take(key)
        elif isinstance(old, PlacedDict) and isinstance(value, PlacedDict) and not _type_changes(old, value):
            merge(old, value)
        elif isinstance(old, PlacedDict) and isinstance(value, str) and old.get("type") == value:
            continue
        else:
            base.put(key, copy_tree(value), place)


def _type_changes(old: PlacedDict, new: PlacedDict) -> bool:
    return "type" in old and "type" in new and old["type"] != new["type"]


def interpolate(data: PlacedDict) -> None:
    """Replace `${key}` in every text by the root entry `key` (a text or a number), in place.

    Raises:
        ConfigError: there is no such root entry, or it is not a plain value.
    """
    known = {k: v for k, v in data.items() if isinstance(v, (str, int, float)) and not isinstance(v, bool)}

    def replace(text: str, place: str) -> str:
        def lookup(match: re.Match[str]) -> str:
            key = match[1]
            if key not in known or _REFERENCE.search(str(known[key])):
                raise ConfigError(
                    f"'{match[0]}' does not name a plain entry at the top of the file",
                    place=place,
                    remedy=did_you_mean(key, known),
                )
            return str(known[key])

        return _REFERENCE.sub(lookup, text)

    def walk(value: Any, path: str, place: str) -> Any:
        if isinstance(value, PlacedDict):
            for key, item in value.items():
                value[key] = walk(item, f"{path}.{key}" if path else key, value.place_of(key))
            return value
        if isinstance(value, list):
            return [walk(item, path, place) for item in value]
        return replace(value, f"{place}: {path}") if isinstance(value, str) and "${" in value else value

    walk(data, "", data.place)

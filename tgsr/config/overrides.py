"""Options from the command line: `--force_yml key:sub=value` (BasicSR's form) or `key.sub=value`, values in YAML."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tgsr.config.yaml_loader import COMMAND_LINE, PlacedDict, merge, parse_yaml
from tgsr.utils.errors import ConfigError


def apply_overrides(data: PlacedDict, overrides: Iterable[str]) -> None:
    """Lay overrides over the data of an option file, in place, in the given order.

    The rules are those of `_base_`: null removes a key, and `a={type: NEW, x: 1}` drops the arguments of the old type;
    `a:type=NEW` alone keeps them.
    Keys are not checked here; a misspelt one is found when the options are bound, with the place `command line`.

    Raises:
        ConfigError: an override is not of the form `key=value`, or goes into something that has no entries.
    """
    for text in overrides:
        keys, value = parse_override(text)
        _set(data, keys, value, text)


def parse_override(text: str) -> tuple[list[str], Any]:
    """Keys and value of one override. With a colon before the `=`, keys are separated by colons, else by dots."""
    name, equals, raw = text.partition("=")
    name = name.strip()
    keys = [key.strip() for key in name.split(":" if ":" in name else ".")]
    if not equals or not all(keys):
        raise ConfigError(
            f"'{text}' is not of the form key:sub=value", place=COMMAND_LINE, remedy="for example train:total_iter=1000"
        )
    try:
        value = parse_yaml(raw, file=COMMAND_LINE)
    except ConfigError as error:
        raise ConfigError(f"'{text}': {error.problem}", place=COMMAND_LINE) from None
    return keys, _place_everywhere(value)


def _set(data: PlacedDict, keys: list[str], value: Any, text: str) -> None:
    """Follow the keys through existing mappings and lists, then merge the rest as new nested mappings."""
    here: Any = data
    for depth, key in enumerate(keys):
        below = here.get(key) if isinstance(here, PlacedDict) else None
        if isinstance(below, list) and depth + 1 < len(keys):
            here = _list_entry(below, keys[depth + 1 :], value, text)
            if here is None:
                return
            keys = keys[depth + 2 :]
            merge(here, _nest(keys, value))
            return
        if not isinstance(below, PlacedDict):
            if below is not None and not isinstance(below, str) and depth + 1 < len(keys):
                raise ConfigError(f"'{text}': '{key}' is {below!r} and has no entries", place=COMMAND_LINE)
            merge(here, _nest(keys[depth:], value))
            return
        if depth + 1 == len(keys):
            merge(here, _nest([key], value))
            return
        here = below


def _list_entry(items: list[Any], keys: list[str], value: Any, text: str) -> PlacedDict | None:
    """Set `items[index]` and return None, or return the mapping at that index when keys go on below it."""
    try:
        index = int(keys[0])
        entry = items[index]
    except (ValueError, IndexError):
        raise ConfigError(
            f"'{text}': '{keys[0]}' is not an index of a list of {len(items)}", place=COMMAND_LINE
        ) from None
    if len(keys) == 1:
        items[index] = value
        return None
    if not isinstance(entry, PlacedDict):
        raise ConfigError(f"'{text}': entry {index} is {entry!r} and has no entries", place=COMMAND_LINE)
    return entry


def _nest(keys: list[str], value: Any) -> PlacedDict:
    for key in reversed(keys):
        outer = PlacedDict(place=COMMAND_LINE)
        outer.put(key, value, COMMAND_LINE)
        value = outer
    return value


def _place_everywhere(value: Any) -> Any:
    """Places of a value in flow style are `command line`, without a line number."""
    if isinstance(value, PlacedDict):
        twin = PlacedDict(place=COMMAND_LINE)
        for key, item in value.items():
            twin.put(key, _place_everywhere(item), COMMAND_LINE)
        return twin
    if isinstance(value, list):
        return [_place_everywhere(item) for item in value]
    return value

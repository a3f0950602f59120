"""Name -> object tables. A package that owns a table registers its own modules when the table is first asked.

Names that it does not hold may stand in a room above it: in `ROOMS` every module is imported, without a list, when a
table is asked for a name that it lacks.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from tgsr.utils.errors import ConfigError

T = TypeVar("T")
ROOMS = ("tgsr.study", "tgsr.methods")
"""Packages that add entries to tables of packages below them."""


@cache
def load_rooms() -> None:
    """Import every module of the rooms, so that what they register can be named."""
    for room in ROOMS:
        package = importlib.import_module(room)
        for module in pkgutil.walk_packages(package.__path__, prefix=f"{room}."):
            importlib.import_module(module.name)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Remedy text for a misspelt name: the nearest known names, or the list of them when none is near."""
    known = sorted(known)
    lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), lower, n=2, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(f"'{lower[c]}'" for c in close) + "?"
    return "known: " + (", ".join(known) if known else "none")


class Registry:
    """One table of components of one kind.

    Args:
        kind: what the entries are, in the singular, for messages ("network", "loss").
        elsewhere: names that other projects give to entries, lower case, for suggestions.
        package: package whose modules are all imported when the table is first read, so that an entry needs one file
            and no list of imports.
    """

    def __init__(
        self, kind: str, *, package: str | None = None, elsewhere: Mapping[str, str] | None = None
    ) -> None:
        self.kind, self._elsewhere = kind, dict(elsewhere or {})
        self._package = package
        self._loaded = package is None
        self._entries: dict[str, Any] = {}
        self._aliases: dict[str, str] = {}
        self._fallbacks: list[Callable[[str], Any | None]] = []
        self._fallback_names: list[Callable[[], Iterable[str]]] = []

    def register(self, name: str | None = None, *, aliases: Iterable[str] = ()) -> Callable[[T], T]:
        """Decorator that adds a class or function under `name` (default: its own name) and `aliases`."""

        def add(obj: T) -> T:
            key = name or obj.__name__  # type: ignore[attr-defined]
            for k in (key, *aliases):
                if (k in self._entries or k in self._aliases) and self.peek(k) is not obj:
                    raise ValueError(f"{self.kind} '{k}' is registered twice")
            self._entries[key] = obj
            self._aliases.update(dict.fromkeys(aliases, key))
            return obj

        return add

    def add_fallback(self, lookup: Callable[[str], Any | None], names: Callable[[], Iterable[str]] = tuple) -> None:
        """Ask `lookup(name)` for names the table does not hold (adapters to libraries, e.g. basicsr's networks).

        Args:
            lookup: name -> entry or None.
            names: what `lookup` knows; asked only to suggest a name for one that nobody knows.
        """
        self._fallbacks.append(lookup)
        self._fallback_names.append(names)

    def peek(self, name: str) -> Any | None:
        """The entry, or None; imports nothing."""
        return self._entries.get(self._aliases.get(name, name))

    def find(self, name: str) -> Any | None:
        """The entry, from the rooms too, or None."""
        self._load()
        entry = self.peek(name)
        if entry is None and self._package is not None:
            load_rooms()
            entry = self.peek(name)
        return entry

    def get(self, name: str) -> Any:
        """The entry called `name`; ConfigError with the nearest names when there is none."""
        entry = self.find(name)
        for lookup in self._fallbacks if entry is None else ():
            entry = lookup(name)
            if entry is not None:
                break
        if entry is None:
            known = {*self.names(), *(other for names in self._fallback_names for other in names())}
            ours = self._elsewhere.get(name.lower())
            remedy = did_you_mean(name, known) if ours is None else f"here it is called '{ours}'"
            raise ConfigError(f"there is no {self.kind} '{name}'", remedy=remedy)
        return entry

    def name_of(self, name: str) -> str:
        """The entry's own name for one of its aliases."""
        self.find(name)
        return self._aliases.get(name, name)

    def names(self) -> list[str]:
        """All names without aliases, sorted."""
        self._load()
        if self._package is not None:
            load_rooms()
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # before the imports: the modules themselves may ask the table
        package = importlib.import_module(self._package)  # type: ignore[arg-type]
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")

"""Spec: a component that an option file names, checked against its signature but not built yet."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn

from tgsr.utils.errors import ConfigError, UserError
from tgsr.utils.registry import Registry


@dataclass(frozen=True)
class Kind:
    """Which registry a `Spec` field takes its types from.

    Attributes:
        registry: `module:NAME` of the Registry; imported when first needed, so that the option rooms import no torch.
        runtime: arguments that the program supplies when it builds the component; an option file may not set them.
    """

    registry: str
    runtime: tuple[str, ...] = ()

    def table(self) -> Registry:
        module, name = self.registry.split(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Range:
    """Limits of a number in an annotation: `Annotated[int, Range(1)]`."""

    low: float | None = None
    high: float | None = None

    def admits(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        limits = ((">=", self.low), ("<=", self.high))
        return " and ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None)


class Output:
    """Marks a path that a component writes, so that `--check` does not ask whether it exists."""


OutputPath = Annotated[Path, Output()]
PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]


class FrozenDict(dict[str, Any]):
    """A dict that refuses changes: options stay as they were checked."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("options are frozen; copy them with dataclasses.replace or dict(...)")

    __setitem__ = __delitem__ = __ior__ = _refuse  # type: ignore[assignment]
    clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenDict, (dict(self),))

    def __hash__(self) -> int:  # type: ignore[override]
        raise TypeError("unhashable type: 'FrozenDict'")


@dataclass(frozen=True)
class Spec:
    """`{type: NAME, **kwargs}` of an option file after checking.

    Attributes:
        kind: where the type was looked up.
        type: registered name (aliases resolved).
        kwargs: arguments from the option file, converted to the annotated types; never changed by `build`.
        place: `file:line: key` for messages.
    """

    kind: Kind
    type: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    place: str = field(default="", compare=False)

    @property
    def entry(self) -> Any:
        """The registered class or function."""
        return self.kind.table().get(self.type)

    def build(self, *args: Any, **runtime: Any) -> Any:
        """The component, from the options' arguments and those of the program.

        Raises:
            UserError: what the constructor raised, with this place where it names none. Any other exception becomes a
                ConfigError with the class, the arguments and the message; the exception itself is its cause.
        """
        entry = self.entry
        try:
            return entry(*args, **{**runtime, **thaw(self.kwargs)})
        except UserError as error:
            if error.place or not self.place:
                raise
            raise type(error)(error.problem, place=self.place, remedy=error.remedy) from error
        except Exception as error:  # torch and components of the user's own raise what they like
            arguments = ", ".join(f"{key}={_brief(value)}" for key, value in self.kwargs.items())
            message = next(iter(str(error).splitlines()), "")
            problem = f"{self.type}({arguments}): {type(error).__name__}: {message}{_own_line(error, entry)}"
            raise ConfigError(problem, place=self.place) from error

    def to_json(self) -> dict[str, Any]:
        return {"type": self.type, **self.kwargs}


def _brief(value: Any) -> str:
    text = value.type if isinstance(value, Spec) else str(value) if isinstance(value, Path) else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _own_line(error: Exception, entry: Any) -> str:
    """Where a component of the user's own failed, ` (file:line)`; empty for those of this package."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is `Spec.build`
    if not frames or str(getattr(entry, "__module__", "")).startswith("tgsr."):
        return ""
    last = [frame for frame in frames if frame.filename == frames[0].filename][-1]
    return f" ({last.filename}:{last.lineno})"


def freeze(value: Any) -> Any:
    """Dicts become FrozenDicts, at every depth of dicts, lists and tuples."""
    if isinstance(value, Mapping):
        return FrozenDict({k: freeze(v) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(freeze(v) for v in value)
    return value


def thaw(value: Any) -> Any:
    """A copy with ordinary dicts and lists, which a component may keep and change."""
    if isinstance(value, Mapping):
        return {k: thaw(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(thaw(v) for v in value)
    return value

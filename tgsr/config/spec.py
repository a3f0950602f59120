"""Spec: a component that an option file names, checked against its signature but not built yet."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
    place: str = ""

    def build(self, *args: Any, **runtime: Any) -> Any:
        """The component, from the options' arguments and those of the program."""
        return self.kind.table().get(self.type)(*args, **{**runtime, **self.kwargs})

    def to_json(self) -> dict[str, Any]:
        return {"type": self.type, **self.kwargs}

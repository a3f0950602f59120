"""A JSON schema of option files, made from the dataclasses and the registries, for completion and hints in editors."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union

from tgsr.config.bind import LIST_TYPES, Parameter, section_parameters, signature_of, unwrap
from tgsr.config.schema import Options
from tgsr.config.spec import Kind, Range, Spec
from tgsr.config.yaml_loader import BASE_KEY

_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string", type(None): "null"}


def json_schema() -> dict[str, Any]:
    """The schema of a whole option file.

    Missing keys are not reported where a `_base_` may supply them; `--check` does that. Legacy keys are not part
    of it.
    """
    maker = _Maker()
    root = maker.section(Options)
    root["properties"][BASE_KEY] = {
        "description": "Option files, relative to this one, that this file is laid over.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    required = [p.name for p in section_parameters(Options).values() if p.required]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tgsr option file",
        **root,
        "anyOf": [{"required": [BASE_KEY]}, {"required": required}],
        "$defs": maker.definitions,
    }


class _Maker:
    """Translates types; one definition for each component, shared by all places that may name it."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}

    def section(self, target: type) -> dict[str, Any]:
        notes = attribute_notes(target)
        parameters = section_parameters(target)
        return {
            "type": "object",
            "description": first_line(target),
            "properties": {k: self._property(p, notes.get(k, "")) for k, p in parameters.items()},
            "additionalProperties": False,
        }

    def _property(self, parameter: Parameter, note: str) -> dict[str, Any]:
        schema = self.type(parameter.annotation)
        if note:
            schema = {**schema, "description": note}
        if not parameter.required and isinstance(parameter.default, (bool, int, float, str)):
            schema = {**schema, "default": parameter.default}
        return schema

    def type(self, wanted: Any) -> dict[str, Any]:
        inner, marks = unwrap(wanted)
        if inner is Spec:
            kind = next((m for m in marks if isinstance(m, Kind)), None)
            return {} if kind is None else self.component(kind)
        origin, args = typing.get_origin(inner), typing.get_args(inner)
        if origin in (Union, types.UnionType):
            schemas = [self.type(a) for a in args]
            members = [m for s in schemas for m in s.get("anyOf", [s])]
            return {"anyOf": [m for i, m in enumerate(members) if m not in members[:i]]}
        if origin is Literal:
            return {"enum": list(args)}
        if inner in _PLAIN:
            limits = next((m for m in marks if isinstance(m, Range)), Range())
            bounds = {"minimum": limits.low, "maximum": limits.high}
            return {"type": _PLAIN[inner], **{k: v for k, v in bounds.items() if v is not None}}
        if dataclasses.is_dataclass(inner):
            return {"anyOf": [self.section(typing.cast(type, inner)), {"type": "null"}]}
        if (origin or inner) in LIST_TYPES:
            return self._list(origin or inner, args)
        if (origin or inner) in (dict, Mapping):
            item = self.type(args[1]) if args else {}
            return {"type": ["object", "null"], "additionalProperties": {"anyOf": [item, {"type": "null"}]}}
        return {}

    def _list(self, base: Any, args: tuple[Any, ...]) -> dict[str, Any]:
        if base is tuple and args and args[-1] is not Ellipsis:
            return {
                "type": "array",
                "prefixItems": [self.type(a) for a in args],
                "minItems": len(args),
                "maxItems": len(args),
            }
        return {"type": "array", "items": self.type(args[0]) if args else {}}

    def component(self, kind: Kind) -> dict[str, Any]:
        """`{type: NAME, ...}`, a bare NAME, or, over a `_base_`, arguments without a type."""
        table = kind.table()
        if table.kind not in self.definitions:
            self.definitions[table.kind] = {}  # known before its arguments are: components may hold their own kind
            names = table.names()
            typed = [self._typed(name, table.get(name), kind) for name in names]
            untyped = {"type": "object", "not": {"required": ["type"]}}
            self.definitions[table.kind] = {"oneOf": [*typed, untyped, {"type": "string"}]}
        return {"$ref": f"#/$defs/{table.kind.replace(' ', '%20')}"}

    def _typed(self, name: str, entry: Any, kind: Kind) -> dict[str, Any]:
        signature = signature_of(entry)
        notes = argument_notes(entry)
        parameters = {k: p for k, p in signature.parameters.items() if k not in kind.runtime}
        properties = {k: self._property(p, notes.get(k, "")) for k, p in parameters.items()}
        return {
            "type": "object",
            "description": first_line(entry),
            "properties": {"type": {"const": name}, **properties},
            "required": ["type"],
            "additionalProperties": signature.open,
        }


def first_line(entry: Any) -> str:
    return (inspect.getdoc(entry) or "").partition("\n")[0]


@cache
def attribute_notes(target: type) -> dict[str, str]:
    """The text under each field of a dataclass; empty where the source is not at hand."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(target)))
    except (OSError, TypeError):
        return {}
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    notes = {}
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            notes[field.target.id] = inspect.cleandoc(str(ast.literal_eval(text.value)))
    return notes


def argument_notes(entry: Any) -> dict[str, str]:
    """The `Args:` part of a component's docstring, name -> text."""
    text = inspect.getdoc(entry) or ""
    if "Args:" not in text and inspect.isclass(entry):
        text = inspect.getdoc(entry.__init__) or ""
    _, _, arguments = text.partition("Args:\n")
    notes: dict[str, str] = {}
    current, indent = "", 0
    for line in arguments.splitlines():
        match = re.match(r"( *)([\w, ]+): (.+)", line)
        if match and (not notes or len(match[1]) <= indent):
            indent = len(match[1])
            current = match[2]
            for name in current.split(","):
                notes[name.strip()] = match[3]
        elif line.strip() and len(line) - len(line.lstrip()) > indent and current:
            for name in current.split(","):
                notes[name.strip()] += " " + line.strip()
        else:
            break
    return notes

"""Artefact: a file that one stage writes and others read, with one check of what it is and what it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.degradations.base import Space
from tgsr.tasks.artefacts import check_space, check_tasks, check_weights
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import DataError
from tgsr.utils.files import check_schema, read_json, write_json

A = TypeVar("A", bound="Artefact")


def stamp(options: Options) -> dict[str, Any]:
    """`seed` and `options` of an artefact that a stage makes."""
    return {"seed": options.manual_seed, "options": options_hash(options)}


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """Base of the files that stages exchange: a frozen dataclass whose fields are the keys of a JSON file.

    A subclass sets `schema`. It overrides `to_json` and `from_json` where its fields are more than JSON, and `older`
    where files of other schemas or versions can still be read; `from_json` then gets them as they are.

    Attributes:
        schema: name of the kind of file, e.g. `tgsr.groups`.
        version: that is written.
        older: further `(schema, version)` that `from_json` understands.
        made_by: the stage that makes such files, for messages.
        seed: of the run that made it.
        options: hash of the options of that run.
    """

    schema: ClassVar[str]
    version: ClassVar[int] = 1
    older: ClassVar[tuple[tuple[str, int], ...]] = ()
    made_by: ClassVar[str] = ""

    seed: int | None = None
    options: str = ""

    def to_json(self) -> dict[str, Any]:
        """What `save` writes."""
        head = {"schema": self.schema, "version": self.version}
        return {**head, **{f.name: getattr(self, f.name) for f in fields(self)}}

    @classmethod
    def from_json(cls: type[A], data: Mapping[str, Any]) -> A:
        """From the content of a checked file; keys that are no fields are left out, as a later tgsr may add some."""
        return cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data or f.default is MISSING})

    def save(self, path: Path | str) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def check(
        cls,
        data: Any,
        place: Path | str,
        *,
        tasks: TaskSet | None = None,
        space: Space | None = None,
        weights: Path | None = None,
    ) -> None:
        """The one check of an artefact.

        Args:
            data: its content, or the first line of a `.jsonl`.
            place: the file.
            tasks: of the run that reads it.
            space: of the run; compared where `tasks` says which space it was drawn from.
            weights: that it must have been made with.

        Raises:
            DataError: another schema or version, other tasks, another space, other weights.
        """
        found = (data.get("schema"), data.get("version")) if isinstance(data, Mapping) else None
        if found not in cls.older:
            check_schema(data, cls.schema, place, version=cls.version, made_by=cls.made_by)
        check_tasks(data, tasks, place)
        check_weights(data, weights, place)
        if tasks is not None:
            check_space(tasks, space, place)

    @classmethod
    def load(
        cls: type[A],
        path: Path | str,
        *,
        tasks: TaskSet | None = None,
        space: Space | None = None,
        weights: Path | None = None,
    ) -> A:
        """Read and check a file; arguments and errors as those of `check`, and DataError for a damaged one."""
        try:
            data = read_json(path)
        except DataError as error:
            made = f"make it first, run: {{type: {cls.made_by}}}" if cls.made_by and not Path(path).exists() else ""
            raise DataError(error.problem, place=error.place, remedy=made) from None
        cls.check(data, path, tasks=tasks, space=space, weights=weights)
        try:
            return cls.from_json(data)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            problem = f"lacks '{error.args[0]}'" if isinstance(error, KeyError) else f"is damaged: {error}"
            remedy = "make it again" + (f", run: {{type: {cls.made_by}}}" if cls.made_by else "")
            raise DataError(f"this {cls.schema} file {problem}", place=str(path), remedy=remedy) from None

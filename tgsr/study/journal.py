"""Journal: keyed records in JSON lines, written at once by many processes, read together, merged at the end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tgsr.engine.context import Context
from tgsr.tasks.artefacts import VERSION, difference, json_digest
from tgsr.utils.errors import DataError
from tgsr.utils.files import append_jsonl, check_schema, to_json, write_atomic

logger = logging.getLogger("tgsr")
Record = dict[str, Any]
"""JSON: `key` (or `task`, in older files), `status` (`ok` unless said otherwise), `seconds`, and what was measured;
`attempt` from the second one on."""


def key_of(record: Mapping[str, Any]) -> str | None:
    """Of a record, or None for a line that is none."""
    return record.get("key", record.get("task"))


class Journal:
    """The growing record of work on many keys.

    Writer k appends to `<stem>.<k>.jsonl`; `merge` makes `<stem>.jsonl` of all of them. The first line of each file is
    a header with the protocol: all that the numbers depend on. Files of another protocol are refused and left alone.

    Args:
        path: of the merged file.
        schema: of the header.
        protocol: JSON, in words and numbers.
        about: further keys of the header that must agree, e.g. `seed`, `tasks`.
    """

    def __init__(self, path: Path, *, schema: str, protocol: Mapping[str, Any], **about: Any) -> None:
        self.path, self.schema, self.protocol, self.about = Path(path), schema, dict(protocol), about
        self._opened: set[int] = set()

    @property
    def header(self) -> dict[str, Any]:
        """The first line of every file; `result` is filled in by `merge`."""
        return {
            "schema": self.schema, **self.about, "protocol": self.protocol, "result": {}, "version": VERSION,
            "options": json_digest(self.protocol),
        }  # fmt: skip

    def read(self) -> dict[str, Record]:
        """The newest record of every key, in the order of the merged file, then of the parts.

        A line that a kill cut is left out: its key will be done again.

        Raises:
            DataError: a file belongs to other work.
        """
        parts = [record for path in self._parts() for record in self._read(path)]
        # Merged after the parts have been read: whoever merges writes that file first and removes the parts then.
        found: dict[str, Record] = {}
        for record in [*self._read(self.path), *parts]:
            key = key_of(record)
            if key is not None and (key not in found or _attempt(record) > _attempt(found[key])):
                found[key] = record
        return found

    def shared(self, context: Context) -> dict[str, Record]:
        """What rank 0 reads, on all ranks: another node may see a new file late."""
        return context.from_main(self.read() if context.is_main else None)

    def append(self, record: Record, *, writer: int) -> None:
        """Write one record at once, as a whole line.

        Args:
            record: has a `key` (or `task`).
            writer: number of this process; no other writes under it at the same time.
        """
        if key_of(record) is None:
            raise ValueError(f"a record without a key: {record}")
        path = self._part(writer)
        if writer not in self._opened or not path.exists():  # a merge has removed it
            _write_lines(path, [self.header, *self._read(path)])
            self._opened.add(writer)
        append_jsonl(path, record)

    def merge(
        self,
        keys: Sequence[str] | None = None,
        *,
        finish: Callable[[Record], Record] = dict,
        result: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the merged file with one line for each key, in that order, then remove the parts.

        For one rank, after all have met; a kill in its middle loses nothing.

        Args:
            keys: None: all that there are.
            finish: turns each record into its final form; must accept final ones.
            result: what was decided from the records, for the header.
        """
        done = self.read()
        keys = list(done) if keys is None else keys
        missing = [key for key in keys if key not in done]
        if missing:
            problem = f"{len(missing)} of {len(keys)} are missing, first '{missing[0]}'"
            raise DataError(problem, place=str(self.path), remedy="start it again to go on")
        header = {**self.header, "result": dict(result or {})}
        parts = self._parts()
        _write_lines(self.path, [header, *(finish(done[key]) for key in keys)])
        for part in parts:
            part.unlink(missing_ok=True)
        return self.path

    def _part(self, writer: int) -> Path:
        return self.path.with_name(f"{self.path.stem}.{writer}.jsonl")

    def _parts(self) -> list[Path]:
        found = self.path.parent.glob(f"{self.path.stem}.*.jsonl")
        return sorted(p for p in found if p.name[len(self.path.stem) + 1 : -len(".jsonl")].isdigit())

    def _read(self, path: Path) -> list[Record]:
        """The records of one file of this work; none where it is absent."""
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        if not any(line.strip() for line in lines):
            return []
        self._check_same(_parse(lines[0]), path)
        records = []
        for number, line in enumerate(lines[1:], 2):
            record = _parse(line)
            if isinstance(record, dict):
                records.append(record)
            elif line.strip():
                logger.warning("%s: line %d was cut by a kill; it is left out and done again", path, number)
        return records

    def _check_same(self, found: Any, place: Path) -> None:
        check_schema(found, self.schema, place)
        for key in (*self.about, "options"):
            if to_json(found.get(key)) != to_json(self.header[key]):
                what = difference(found.get("protocol"), self.protocol) if key == "options" else f"{key} differ"
                raise DataError(
                    f"belongs to another sweep ({what})",
                    place=str(place),
                    remedy="give this one another name, or move the old one aside",
                )


def _attempt(record: Mapping[str, Any]) -> int:
    return record.get("attempt", 1)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _write_lines(path: Path, lines: Iterable[Any]) -> None:
    text = "".join(to_json(line) + "\n" for line in lines)
    write_atomic(path, lambda f: f.write(text.encode()))

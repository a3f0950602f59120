"""Open every image of a set once before training and tell all problems together; results are remembered by file."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tgsr.data.backends import ImageSource
from tgsr.utils.errors import DataError, UserError
from tgsr.utils.files import cache_folder, read_json, write_json
from tgsr.utils.image_io import captured_complaints, jpeg_damage

if TYPE_CHECKING:
    from tgsr.data.base import ImageDataset

SCHEMA_VERSION = 2
"""2: damage inside a JPEG is noticed, too."""
_LISTED = 20
_CHUNK = 256
_log = logging.getLogger("tgsr")


class Problem(NamedTuple):
    """One image that cannot be used: its index in the set, its path, and what is wrong."""

    index: int
    place: str
    text: str


class Opened(NamedTuple):
    """What opening an image showed: its size, or the error."""

    height: int
    width: int
    error: str | None


@dataclass
class PreflightReport:
    """What a preflight found.

    Attributes:
        num_images: images (or pairs) looked at.
        problems: in the order of the images.
        num_opened: files that were really opened, not remembered.
    """

    num_images: int
    problems: list[Problem] = field(default_factory=list)
    num_opened: int = 0

    @property
    def bad(self) -> set[int]:
        """Indices with a problem."""
        return {p.index for p in self.problems}

    def text(self) -> str:
        """A line for each problem, the first twenty of them."""
        lines = [f"{p.place}: {p.text}" for p in self.problems[:_LISTED]]
        if len(self.problems) > _LISTED:
            lines.append(f"and {len(self.problems) - _LISTED} more")
        return f"{len(self.bad)} of {self.num_images} images cannot be used:\n  " + "\n  ".join(lines)


def inspect(dataset: ImageDataset, *, cache: Path | None = None, num_threads: int | None = None) -> PreflightReport:
    """Open all images of a set, in parallel.

    Args:
        dataset: built; its training sizes are checked where it has any.
        cache: folder of remembered results, keyed by path, size and modification time; None: `cache_folder()`.
        num_threads: None: one for each core this process may use.
    """
    threads = num_threads or _cores()
    opened: dict[str, list[Opened]] = {}
    report = PreflightReport(len(dataset))
    for role, source in dataset.sources().items():
        opened[role], fresh = _open_all(source, (cache or cache_folder()) / "preflight", threads)
        report.num_opened += fresh
    for i in range(len(dataset)):
        found = {role: results[i] for role, results in opened.items()}
        broken = [(role, o.error) for role, o in found.items() if o.error]
        if broken:
            report.problems += [Problem(i, dataset.sources()[role].place(i), str(text)) for role, text in broken]
            continue
        text = dataset.size_problem({role: (o.height, o.width) for role, o in found.items()})
        if text:
            report.problems.append(Problem(i, dataset.place(i), text))
    return report


def preflight(dataset: ImageDataset, *, skip_bad: bool = False, cache: Path | None = None) -> PreflightReport:
    """Refuse a set with bad images, or leave them out.

    Args:
        dataset: built; `keep` is called on it when images are left out.
        skip_bad: leave bad images out and log how many, instead of raising.
        cache: see `inspect`.

    Raises:
        DataError: all problems, or nothing is left.
    """
    report = inspect(dataset, cache=cache)
    if not report.problems:
        return report
    if not skip_bad:
        raise DataError(report.text(), remedy="mend or remove them, or set skip_bad_images: true")
    _log.warning("left out: %s", report.text())
    dataset.keep([i for i in range(len(dataset)) if i not in report.bad])
    return report


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open_all(source: ImageSource, folder: Path, threads: int) -> tuple[list[Opened], int]:
    """The result for every image, and how many had to be opened."""
    places = [source.place(i) for i in range(len(source))]
    stamps = [source.stamp(i) for i in range(len(source))]
    file = folder / f"{hashlib.blake2b(os.fsencode(os.path.dirname(places[0])), digest_size=8).hexdigest()}.json"
    known = _load(file)
    results: list[Opened | None] = []
    for place, stamp in zip(places, stamps, strict=True):
        entry = known.get(os.path.abspath(place)) if stamp is not None else None
        results.append(Opened(*entry[2:]) if entry and tuple(entry[:2]) == stamp else None)
    todo = [i for i, r in enumerate(results) if r is None]
    if len(todo) > 1000:
        _log.info("opening %d images once, to find bad ones before training (remembered in %s)", len(todo), folder)
    if todo:
        for i, result in zip(todo, _open_each(source, todo, threads), strict=True):
            results[i] = result
            stamp = stamps[i]
            if stamp is not None:
                known[os.path.abspath(places[i])] = [*stamp, *result]
        _save(file, known)
    return [r for r in results if r is not None], len(todo)


def _open_each(source: ImageSource, todo: Sequence[int], threads: int) -> Iterator[Opened]:
    """Open images, many at a time; where a decoder complains meanwhile, those of the chunk once more, one at a time."""
    opened = _opener(source)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(todo), _CHUNK):
            chunk = todo[start : start + _CHUNK]
            with captured_complaints() as complaints:
                results = list(pool.map(opened, chunk))
            if "Corrupt JPEG" in complaints():
                results = [_listened(source, i, result) for i, result in zip(chunk, results, strict=True)]
            yield from results


def _listened(source: ImageSource, index: int, result: Opened) -> Opened:
    """What opening a file showed, with what its decoder says of it."""
    if result.error is not None or not os.path.isfile(source.place(index)):
        return result
    with captured_complaints() as complaints:
        source.check(index)
    damage = complaints() and jpeg_damage(complaints(), Path(source.place(index)).read_bytes())
    return Opened(0, 0, damage) if damage else result


def _opener(source: ImageSource) -> Callable[[int], Opened]:
    def opened(index: int) -> Opened:
        try:
            height, width = source.check(index)
        except UserError as error:
            return Opened(0, 0, error.problem)
        return Opened(height, width, None)

    return opened


def _load(file: Path) -> dict[str, Any]:
    try:
        data = read_json(file)
    except (UserError, OSError):
        return {}
    if not isinstance(data, Mapping) or (data.get("schema"), data.get("version")) != ("tgsr.preflight", SCHEMA_VERSION):
        return {}
    return dict(data["files"])


def _save(file: Path, known: Mapping[str, Any]) -> None:
    try:
        write_json(file, {"schema": "tgsr.preflight", "version": SCHEMA_VERSION, "files": known})
    except UserError as error:
        _log.warning("what was checked cannot be remembered: %s", error)

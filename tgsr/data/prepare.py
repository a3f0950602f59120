"""Gets the data sets of `recipes.py` and lays them out: by download, or from what the user has got by hand."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tgsr.config.schema import Options
from tgsr.config.spec import FrozenDict, Spec
from tgsr.data.demo import prepare_demo
from tgsr.data.recipes import RECIPES, ROOT, Derived, Images, Output, Pairs, Recipe, command, needed, outputs_for
from tgsr.utils.download import download, unpack_all
from tgsr.utils.errors import ConfigError, DataError, UserError
from tgsr.utils.image_io import is_image_name, list_images, probe_image
from tgsr.utils.registry import did_you_mean

NAMES = tuple(RECIPES)
_ORIGINALS = "originals"
_SHOWN = 3


@dataclass(frozen=True)
class Work:
    """How data sets are prepared.

    Attributes:
        root: the folder of all data sets.
        source: where the originals lie, in any of the usual layouts; None: `<root>/originals/<name>`, and what is not
            there is downloaded into it.
        copy: copy images instead of linking them.
        only: make what these paths need and no more; None: everything.
        num_workers: processes that cut and resize.
        say: called with lines for the user: what was found and the option lines that use it.
        bytes_progress: called with (bytes so far, all bytes or None) while downloading.
        count_progress: called with (images done, all) while cutting and resizing.
    """

    root: Path = ROOT
    source: Path | None = None
    copy: bool = False
    only: tuple[Path, ...] | None = None
    num_workers: int = 4
    say: Callable[[str], None] = lambda _line: None
    bytes_progress: Callable[[int, int | None], None] | None = None
    count_progress: Callable[[int, int], None] | None = None


def prepare_missing(name: str, dataroot: Path | Sequence[Path]) -> None:
    """Make set `name` when a data root is not there (the data-set option `prepare`)."""
    for root in _folders(dataroot):
        if not root.exists() and name == "demo":
            if root.name not in ("train", "val"):
                raise ConfigError(f"prepare: demo makes folders train and val, not '{root.name}'", place=str(root))
            prepare_demo(root.parent)


def _folders(dataroot: Path | Sequence[Path]) -> list[Path]:
    return [Path(dataroot)] if isinstance(dataroot, (str, Path)) else [Path(root) for root in dataroot]


def prepare_elsewhere(options: Options, folder: Path) -> Options:
    """The same options, with the sets that `prepare` would make and that are not there made in another folder."""

    def elsewhere(spec: Spec) -> Spec:
        name, given = spec.kwargs.get("prepare"), spec.kwargs.get("dataroot_gt")
        if not name or given is None:
            return spec
        roots = [p if p.exists() else folder / p.parent.name / p.name for p in _folders(given)]
        prepare_missing(name, roots)
        return replace(spec, kwargs=FrozenDict({**spec.kwargs, "dataroot_gt": roots}))

    train, val = options.datasets.train, options.datasets.val
    if train is not None:
        train = replace(train, dataset=elsewhere(train.dataset))
    datasets = replace(options.datasets, train=train, val=FrozenDict({k: elsewhere(v) for k, v in val.items()}))
    return replace(options, datasets=datasets)


def prepare_paths(paths: Iterable[Path], work: Work) -> list[str]:
    """Make all of the paths that are absent and that recipes make; a line for each recipe that could not."""
    work = replace(work, only=tuple(paths))
    return _problems(lambda name: prepare(name, work), needed(work.only or (), work.root))


def _problems(prepare_one: Callable[[str], None], names: Iterable[str]) -> list[str]:
    """What went wrong with any of the sets; each thing once."""
    problems: dict[str, None] = {}
    for name in names:
        try:
            prepare_one(name)
        except UserError as error:
            problems.update(dict.fromkeys(str(error).splitlines()))
    return list(problems)


def prepare(name: str, work: Work) -> None:
    """Get one data set and lay it out; what is there stays, what was stopped goes on.

    Args:
        name: one of `NAMES`.
        work: where, from what, how.

    Raises:
        ConfigError: unknown name.
        UserError, DataError: no network, or the source holds nothing that fits; the text says where to get it.
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no data set '{name}'", remedy=did_you_mean(name, NAMES))
    recipe = RECIPES[name]
    if recipe.build is not None:
        recipe.build(work.root)
        for output in recipe.outputs:
            _say_images(work, output.paths[0])
        return
    outputs = outputs_for(name, work.only, work.root)
    _prepare_needs(recipe, outputs, work)
    originals = work.source or work.root / _ORIGINALS / (recipe.originals or name)
    taken = [o for o in outputs if not isinstance(o, Derived) and not _is_settled(o, originals, work)]
    if taken:
        _take(name, recipe, taken, originals, work)
    for output in outputs:
        if isinstance(output, Derived):
            _derive(output, work)
        elif output not in taken:
            work.say(f"{work.root / output.path}: is there")


def _prepare_needs(recipe: Recipe, outputs: Sequence[Output], work: Work) -> None:
    """Make what the outputs are made of; of a recipe without outputs, all that it needs."""
    parts = work.only
    if recipe.outputs:
        parts = tuple(work.root / path for output in outputs if isinstance(output, Derived) for path in output.of)
    if parts is None or needed(parts, work.root):
        problems = _problems(lambda need: prepare(need, replace(work, only=parts)), recipe.needs)
        if problems:
            raise DataError("\n".join(problems))


def _is_made(output: Output, work: Work) -> bool:
    """Whether what is wanted of an output is there; without a wish, whether any of it is."""
    if work.only is None:
        return any((work.root / path).exists() for path in output.paths)
    return all(p.exists() for p in work.only if _lies_in(p, output, work.root))


def _is_settled(output: Output, originals: Path, work: Work) -> bool:
    """Whether the originals need not be looked at: they may hold more pairs than those that are laid out."""
    may_be_more = isinstance(output, Pairs) and work.only is None and originals.is_dir()
    return work.source is None and _is_made(output, work) and not may_be_more


def _lies_in(path: Path, output: Output, root: Path) -> bool:
    made = [Path(os.path.abspath(root / p)) for p in output.paths]
    return any(Path(os.path.abspath(path)).is_relative_to(folder) for folder in made)


def _take(name: str, recipe: Recipe, outputs: Sequence[Output], folder: Path, work: Work) -> None:
    """Lay out what comes from originals: from the source; else from what was got by hand, then from the network."""
    if work.source is not None and not folder.is_dir():
        raise DataError("no such folder", place=str(folder), remedy="name the folder that holds the data")
    if work.source is None and folder.is_dir():
        unpack_all(folder)
    absent = _lay_out_all(outputs, folder, work)
    if work.source is None:
        absent = [output for output in absent if not _is_made(output, work)]
    if absent and work.source is None:
        absent = _fetch(name, recipe, absent, folder, work)
    for output in absent:
        work.say(f"not found: {_expected(output)}")
    if len(absent) == len(outputs) or work.only is not None and absent:
        problem = f"nothing of {name} is in this folder" if len(absent) == len(outputs) else f"{name} is not whole"
        raise DataError(problem, place=str(folder), remedy="expected " + ", ".join(map(_expected, absent)))


def _expected(output: Output) -> str:
    return " or ".join(output.found_as) if isinstance(output, Images) else f"the pairs of {output.paths[0]}"


def _fetch(name: str, recipe: Recipe, outputs: Sequence[Output], folder: Path, work: Work) -> list[Output]:
    """Download one archive after the other until all outputs are laid out; returns those that are in none."""
    remedy = (
        f"get it from {recipe.page} ({recipe.size}; terms: {recipe.terms}), put its archives or folders into {folder} "
        f"and run this again, or use {command(name, work.root)} --from FOLDER"
    )
    if not recipe.archives:
        raise DataError(f"{name} cannot be fetched without a person", remedy=remedy)
    work.say(f"{name}: {recipe.size}, terms: {recipe.terms}; {recipe.page}")
    absent = list(outputs)
    for archive in recipe.archives:
        if absent:
            file = folder / archive.name
            download(archive.url, file, sha256=archive.sha256, remedy=remedy, progress=work.bytes_progress)
            unpack_all(folder)
            absent = _lay_out_all(absent, folder, work)
    return absent


def _lay_out_all(outputs: Sequence[Output], source: Path, work: Work) -> list[Output]:
    """Lay out what the source holds; returns the outputs that are not in it."""
    if not source.is_dir():
        return list(outputs)
    done = [
        _lay_out(output, source, work) if isinstance(output, Images) else _lay_out_pairs(output, source, work)
        for output in outputs
        if isinstance(output, (Images, Pairs))
    ]
    return [output for output, is_done in zip(outputs, done, strict=True) if not is_done]


def _lay_out(part: Images, source: Path, work: Work) -> bool:
    """Link or copy one folder; whether it was found."""
    found = _find_folder(source, part.found_as)
    if found is None:
        return False
    images = list_images(found)
    probe_image(images[0])
    _link(found, work.root / part.path, images, copy=work.copy)
    _say_images(work, part.path, part.count)
    return True


def _say_images(work: Work, path: str, expected: int | None = None) -> None:
    folder = work.root / path
    count = len(list_images(folder))
    note = f" (the complete set has {expected})" if expected is not None and expected != count else ""
    work.say(f"{folder}: {count} images{note}")
    work.say(f"    dataset: {{type: GTDataset, dataroot_gt: {folder}}}")


def _find_folder(source: Path, endings: Sequence[str]) -> Path | None:
    """The first folder with images whose path ends like one of `endings`, earlier endings first."""
    folders = [source, *sorted(p for p in source.rglob("*") if p.is_dir())]
    for ending in endings:
        wanted = ending.lower().split("/")
        for folder in folders:
            tail = [p.lower() for p in folder.absolute().parts[-len(wanted) :]]
            if tail == wanted and any(is_image_name(f) for _, _, files in os.walk(folder) for f in files):
                return folder
    return None


def _link(source: Path, target: Path, images: Sequence[Path], *, copy: bool) -> None:
    if source.resolve() == target.resolve():
        return
    if target.is_symlink():
        target.unlink()
    elif target.exists() and not copy:
        raise DataError("is there already", place=str(target), remedy="remove it, or use --copy to add what is missing")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        target.symlink_to(source.resolve(), target_is_directory=True)
        return
    for image in images:
        _place(image, target / image.relative_to(source), copy=True)


def _place(image: Path, target: Path, *, copy: bool) -> None:
    """Link or copy one file; a file that is no link stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink():
        target.unlink()
    if target.exists():
        return
    if copy:
        shutil.copy2(image, target)
    else:
        target.symlink_to(image.resolve())


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder to work in that becomes `target` when the work has ended; what a stop left is continued."""
    if target.exists():
        yield target
        return
    partial = target.with_name(f".{target.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    yield partial
    target.unlink(missing_ok=True)  # a link to what is gone
    os.rename(partial, target)


@dataclass(frozen=True)
class Pair:
    """Two partners in the original, the set that they belong to and their common name in it, without extension."""

    gt: Path
    lq: Path
    group: str
    name: str


_CAMERAS = {"iphone": "iPhone", "nikon": "Nikon", "canon": "Canon"}


def find_pairs(source: Path, pairs: Pairs) -> list[Pair]:
    """Every pair below `source` that belongs to one of the sets, sorted by set and name."""
    pattern = re.compile(rf"(?:^|.*/)(?:{pairs.pattern})\.\w+", re.IGNORECASE)
    above = f"{source.absolute().name}/"  # the source itself may be a folder that the pattern names
    partners: dict[tuple[str, str], dict[str, Path]] = {}
    for path in list_images(source):
        inside = path.relative_to(source).as_posix()
        match = pattern.fullmatch(inside) or pattern.fullmatch(above + inside)
        if match is None:
            continue
        labels = {k.rstrip("2"): v for k, v in match.groupdict().items() if v is not None}
        camera = labels.get("camera", "")
        name = "/".join(filter(None, (_CAMERAS.get(camera.lower(), camera), labels["key"])))
        role = "gt" if labels["role"].lower() in pairs.gt_roles else "lq"
        partners.setdefault((pairs.set_of(labels), name), {})[role] = path
    return [
        Pair(both["gt"], both["lq"], group, name)
        for (group, name), both in sorted(partners.items())
        if len(both) == 2 and group in pairs.sets
    ]


def _lay_out_pairs(pairs: Pairs, source: Path, work: Work) -> bool:
    """Link or copy all pairs, set by set; whether those that are wanted were found."""
    if not any(is_image_name(f) for _, _, files in os.walk(source) for f in files):
        return False
    found = find_pairs(source, pairs)
    for group in sorted(_wanted_sets(pairs, work) & {pair.group for pair in found}):
        members = [pair for pair in found if pair.group == group]
        ratio = pairs.ratio or int(group.rsplit("x", 1)[1])
        _check_sizes(members, ratio)
        folder = work.root / pairs.path / group
        with _whole(folder) as place:
            for pair in members:
                for role, image in (("HR", pair.gt), ("LR", pair.lq)):
                    _place(image, place / role / f"{pair.name}{image.suffix.lower()}", copy=work.copy)
        work.say(f"{folder}: {len(members)} pairs of ratio {ratio}")
        work.say(f"    dataset: {{type: PairedDataset, dataroot_gt: {folder}/HR, dataroot_lq: {folder}/LR}}")
    return bool(found) and (work.only is None or _is_made(pairs, work))


def _wanted_sets(pairs: Pairs, work: Work) -> set[str]:
    if work.only is None:
        return set(pairs.sets)
    return {g for g in pairs.sets for p in work.only if _lies_in(p, replace(pairs, sets=(g,)), work.root)}


def _check_sizes(pairs: Sequence[Pair], ratio: int) -> None:
    wrong = []
    for pair in pairs:
        gt, lq = probe_image(pair.gt), probe_image(pair.lq)
        if (gt.height // ratio, gt.width // ratio) != (lq.height, lq.width):
            wrong.append(f"{pair.name} {gt.width}x{gt.height} and {lq.width}x{lq.height}")
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(pairs)} pairs do not have the ratio {ratio}: {', '.join(wrong[:_SHOWN])}",
            place=str(pairs[0].gt.parent),
            remedy="another version of the set? (RealSR: versions 1 and 2 have pairs of equal size, realsr_v2)",
        )


def _derive(output: Derived, work: Work) -> None:
    target = work.root / output.path
    if target.exists():
        work.say(f"{target}: is there")
        return
    folders = [work.root / path for path in output.of]
    with _whole(target) as place:
        count = output.make(*folders, place, num_workers=work.num_workers, progress=work.count_progress)
    work.say(f"{target}: {count} images made of {', '.join(map(str, folders))}")

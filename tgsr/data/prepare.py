"""Known data sets: downloaded where there is a network, or taken from a folder, checked, and laid out alike."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tgsr.config.schema import Options
from tgsr.config.spec import FrozenDict, Spec
from tgsr.data.demo import prepare_demo
from tgsr.utils.download import download, unpack
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.files import write_atomic
from tgsr.utils.image_io import is_image_name, list_images, probe_image
from tgsr.utils.registry import did_you_mean

_ETH = "http://data.vision.ee.ethz.ch/cvl/DIV2K"
_EDSR = "https://cv.snu.ac.kr/research/EDSR"


@dataclass(frozen=True)
class Part:
    """A folder of images of a data set.

    Attributes:
        target: its name in our layout.
        found_as: endings of the path it may have in the source, tried in order.
        num_images: how many the complete set has; None: not known.
    """

    target: str
    found_as: tuple[str, ...]
    num_images: int | None = None


@dataclass(frozen=True)
class Recipe:
    """How to get and lay out one data set.

    Attributes:
        folder: its folder below the root.
        parts: folders of ground truth or of LQ images alone.
        pairs: pattern of paths of paired images with a group `role` and any others that partners share; `split` and
            `scale` among them name the meta-info file.
        gt_roles: what `role` says for ground truth.
        scale: of the pairs, where the pattern does not say it.
        urls: archives that can be fetched without an account.
        page: where a person gets it.
    """

    folder: str
    parts: tuple[Part, ...] = ()
    pairs: str | None = None
    gt_roles: frozenset[str] = field(default_factory=lambda: frozenset({"hr", "gt", "h"}))
    scale: int = 4
    urls: tuple[str, ...] = ()
    page: str = ""


RECIPES: dict[str, Recipe] = {
    "bsds500": Recipe(
        "bsds500",
        (
            Part("train", ("images/train", "train"), 200),
            Part("val", ("images/val", "val"), 100),
            Part("test", ("images/test", "test"), 200),
        ),
        urls=("http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",),
        page="Berkeley Segmentation Data Set and Benchmarks 500",
    ),
    "div2k": Recipe(
        "DIV2K",
        (Part("DIV2K_train_HR", ("DIV2K_train_HR",), 800), Part("DIV2K_valid_HR", ("DIV2K_valid_HR",), 100)),
        urls=(f"{_ETH}/DIV2K_train_HR.zip", f"{_ETH}/DIV2K_valid_HR.zip"),
        page="https://data.vision.ee.ethz.ch/cvl/DIV2K/",
    ),
    "flickr2k": Recipe(
        "Flickr2K",
        (Part("Flickr2K_HR", ("Flickr2K_HR",), 2650),),
        urls=(f"{_EDSR}/Flickr2K.tar",),
        page="the repository limbee/NTIRE2017 on GitHub",
    ),
    "ost": Recipe(
        "OST",
        (Part("OST_train", ("OutdoorSceneTrain_v2", "OST_train", "OST_dataset", "OST")),),
        urls=("https://openmmlab.oss-cn-hangzhou.aliyuncs.com/datasets/OST_dataset.zip",),
        page="the repository xinntao/SFTGAN on GitHub (OutdoorSceneTraining)",
    ),
    "set5": Recipe(
        "Set5", (Part("HR", ("Set5/HR", "Set5/GTmod12", "Set5/original", "Set5"), 5),), urls=(f"{_EDSR}/benchmark.tar",)
    ),
    "set14": Recipe(
        "Set14",
        (Part("HR", ("Set14/HR", "Set14/GTmod12", "Set14/original", "Set14"), 14),),
        urls=(f"{_EDSR}/benchmark.tar",),
    ),
    "urban100": Recipe(
        "Urban100",
        (Part("HR", ("Urban100/HR", "Urban100/GTmod12", "Urban100/original", "Urban100"), 100),),
        urls=(f"{_EDSR}/benchmark.tar",),
    ),
    "realsr": Recipe(
        "RealSR",
        pairs=r"(?P<camera>[^/]+)/(?P<split>train|test)/(?P<scale>[234])/(?P<key>.+)_(?P<role>HR|LR)[234]?",
        page="the repository csjcai/RealSR on GitHub, version 3",
    ),
    "drealsr": Recipe(
        "DRealSR",
        pairs=r"(?P<split>train|test)_x(?P<scale>[234])/.*?(?P<role>HR|LR)[^/]*/(?P<key>.+?)(_x[1-4]|_HR|_LR\d?)?",
        page="the repository xiezw5/Component-Divide-and-Conquer-for-Real-World-Image-Super-Resolution on GitHub",
    ),
    "aim2019": Recipe(
        "AIM2019",
        (
            Part("train_noisy", ("train-noisy-images", "Corrupted-tr-x")),
            Part("train_clean", ("train-clean-images", "Corrupted-tr-y")),
        ),
        pairs=r"(?P<role>valid-gt-clean|valid-input-noisy)/(?P<key>.+)",
        gt_roles=frozenset({"valid-gt-clean"}),
        page="AIM 2019 challenge on real-world super-resolution, track 2 (CodaLab)",
    ),
    "ntire2020": Recipe(
        "NTIRE2020",
        (Part("train_source", ("Corrupted-tr-x",)), Part("train_target", ("Corrupted-tr-y", "DIV2K_train_HR"))),
        pairs=r"(?P<role>DIV2K_valid_HR|Corrupted-va-y|Corrupted-va-x)/(?P<key>.+?)(x4)?",
        gt_roles=frozenset({"div2k_valid_hr", "corrupted-va-y"}),
        page="NTIRE 2020 challenge on real-world super-resolution, track 1 (CodaLab)",
    ),
    "camerasr": Recipe(
        "CameraSR",
        pairs=r"(?P<camera>[^/]*(iphone|nikon)[^/]*)/(.*?(?P<role>HR|LR)/(?P<key>.+?)(_HR|_LR)?|.*?(?P<key2>\d+)_?(?P<role2>HR|LR|H|L))",
        scale=1,
        page="the repository ngchc/CameraSR on GitHub (City100)",
    ),
    "realsr_zero": Recipe(
        "RealSR-Zero",
        (Part("LR", ("RealSR-Zero", "RealSR_Zero", "RealSRZero", "LR")),),
        page="the authors of the criteria-comparative-learning paper (low-quality images without ground truth)",
    ),
}
NAMES = ("demo", *RECIPES)


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


def prepare(
    name: str,
    root: Path,
    *,
    source: Path | None = None,
    copy: bool = False,
    say: Callable[[str], None] = lambda _line: None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Get and lay out one data set below `root`.

    Args:
        name: one of `NAMES`.
        root: the folder of all data sets.
        source: where the data lie already, in any of the usual layouts; None: download them.
        copy: copy images instead of linking folders.
        say: called with lines for the user: what was found and the option lines that use it.
        progress: called with (bytes so far, all bytes or None) while downloading.

    Returns:
        The data set's folder.

    Raises:
        ConfigError: unknown name.
        UserError, DataError: no network, or the source holds nothing that fits; the text says where to get it.
    """
    if name == "demo":
        target = prepare_demo(root / "demo")
        _say_part(say, target / "train", None)
        _say_part(say, target / "val", None)
        return target
    if name not in RECIPES:
        raise ConfigError(f"there is no data set '{name}'", remedy=did_you_mean(name, NAMES))
    recipe = RECIPES[name]
    if source is None:
        source = _downloaded(name, recipe, root, progress)
    elif not source.is_dir():
        raise DataError("no such folder", place=str(source), remedy="name the folder that holds the data")
    target = root / recipe.folder
    num_found = sum(_lay_out(part, source, target, copy=copy, say=say) for part in recipe.parts)
    num_found += _lay_out_pairs(recipe, source, target, copy=copy, say=say) if recipe.pairs else 0
    if not num_found:
        expected = ", ".join(p.found_as[0] for p in recipe.parts) or "the pairs of its usual layout"
        raise DataError(f"nothing of {name} is in this folder", place=str(source), remedy=f"expected {expected}")
    return target


def _downloaded(
    name: str, recipe: Recipe, root: Path, progress: Callable[[int, int | None], None] | None
) -> Path:
    by_hand = f"get it from {recipe.page}, unpack it and use" if recipe.page else "get it by hand, unpack it and use"
    remedy = f"{by_hand} --dataset {name} --from FOLDER"
    if not recipe.urls:
        raise DataError(f"{name} cannot be fetched without an account", remedy=remedy)
    folder = root / ".downloads"
    for url in recipe.urls:
        archive = folder / url.rsplit("/", 1)[1]
        unpacked = folder / f"{archive.name}.unpacked"
        if not unpacked.is_dir():
            download(url, archive, remedy=remedy, progress=progress)
            shutil.rmtree(folder / f"{archive.name}.tmp", ignore_errors=True)
            os.rename(unpack(archive, folder / f"{archive.name}.tmp"), unpacked)
            for inner in [p for p in unpacked.rglob("*") if p.suffix in (".zip", ".tar")]:
                unpack(inner, inner.with_suffix(""))
    return folder


def _lay_out(part: Part, source: Path, target: Path, *, copy: bool, say: Callable[[str], None]) -> int:
    """Link or copy one folder; returns how many images it has, 0 when it is not there."""
    found = _find_folder(source, part.found_as)
    if found is None:
        say(f"not found: {' or '.join(part.found_as)}")
        return 0
    images = list_images(found)
    probe_image(images[0])
    _link(found, target / part.target, images, copy=copy)
    _say_part(say, target / part.target, part.num_images)
    return len(images)


def _say_part(say: Callable[[str], None], folder: Path, expected: int | None) -> None:
    count = len(list_images(folder))
    note = f" (the complete set has {expected})" if expected is not None and expected != count else ""
    say(f"{folder}: {count} images{note}")
    say(f"    dataset: {{type: GTDataset, dataroot_gt: {folder}}}")


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
        place = target / image.relative_to(source)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(image, place)


def _lay_out_pairs(recipe: Recipe, source: Path, target: Path, *, copy: bool, say: Callable[[str], None]) -> int:
    """Write one meta-info file of pairs for each split and scale; returns the number of pairs."""
    lists: dict[str, list[str]] = {}
    scales: dict[str, int] = {}
    for gt, lq, labels in find_pairs(source, recipe):
        scale = int(labels.get("scale") or recipe.scale)
        file = f"meta_info_{(labels.get('split') or 'test').lower()}_x{scale}.txt"
        lists.setdefault(file, []).append(f"{gt}, {lq}\n")
        scales[file] = scale
    if not lists:
        say(f"no pairs like {recipe.pairs}")
        return 0
    images = target / "images"
    _link(source, images, list_images(source), copy=copy)
    for file, lines in sorted(lists.items()):
        write_atomic(target / file, lambda f, lines=lines: f.write("".join(lines).encode()))  # type: ignore[misc]
        say(f"{target / file}: {len(lines)} pairs at scale {scales[file]}")
        roots = f"dataroot_gt: {images}, dataroot_lq: {images}"
        say(f"    dataset: {{type: PairedDataset, {roots}, meta_info: {target / file}}}")
    return sum(map(len, lists.values()))


def find_pairs(source: Path, recipe: Recipe) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Paths of GT and LQ below `source`, and what both names say, for every image that has both."""
    assert recipe.pairs is not None
    pattern = re.compile(rf"(?:^|.*/)(?:{recipe.pairs})\.\w+", re.IGNORECASE)
    groups: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    above = f"{source.absolute().name}/"  # the source itself may be a folder that the pattern names
    for path in list_images(source):
        inside = path.relative_to(source).as_posix()
        match = pattern.fullmatch(inside) or pattern.fullmatch(above + inside)
        if match is None:
            continue
        labels: dict[str, Any] = {k.rstrip("2"): v.lower() for k, v in match.groupdict().items() if v is not None}
        role = "gt" if labels.pop("role") in recipe.gt_roles else "lq"
        groups.setdefault(tuple(sorted(labels.items())), {})[role] = inside
    for key, both in sorted(groups.items()):
        if len(both) == 2:
            yield both["gt"], both["lq"], dict(key)

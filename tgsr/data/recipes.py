"""Known data sets: where each comes from, and what lies where below `datasets/` when it has been prepared.

The paths that option files read are the outputs named here. `tgsr.data.prepare` does the work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tgsr.data.demo import prepare_demo
from tgsr.data.subimages import downscale_bicubic, extract_subimages, generate_multiscale, link_together

ROOT = Path("datasets")


@dataclass(frozen=True)
class Archive:
    """A file of a data set's authors.

    Attributes:
        url: its address.
        size: bytes, where they are published.
        sha256: where one is published.
    """

    url: str
    size: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Images:
    """A folder of images, taken as it is.

    Attributes:
        path: where it lies below `datasets/`.
        found_as: endings of the path it may have in the original, tried in order.
        count: images of the complete set, where known.
    """

    path: str
    found_as: tuple[str, ...] = ()
    count: int | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,)


def _split_and_scale(labels: Mapping[str, str]) -> str:
    return f"{labels['split'].lower()}_x{labels['scale']}"


@dataclass(frozen=True)
class Pairs:
    """GT and LQ images, laid out as `<path>/<set>/{HR,LR}/[<camera>/]<key>`: partners have one name.

    Attributes:
        path: the folder of the sets.
        sets: their names.
        pattern: of a file's path in the original, without its extension: a group `role` (whatever of `gt_roles` is GT),
            a group `key` that partners share, and any that `set_of` reads; `key2` and `role2` serve alternatives.
        set_of: what the groups say -> the set.
        gt_roles: what `role` says for ground truth, in lower case.
        ratio: GT edge divided by LQ edge; None: the number at the end of the set's name.
    """

    path: str
    sets: tuple[str, ...]
    pattern: str
    set_of: Callable[[Mapping[str, str]], str] = _split_and_scale
    gt_roles: frozenset[str] = frozenset({"hr", "gt", "h"})
    ratio: int | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(f"{self.path}/{name}" for name in self.sets)


@dataclass(frozen=True)
class Derived:
    """A folder made of others.

    Attributes:
        path: where it lies.
        of: outputs, of this recipe or of those it needs.
        make: `make(*folders, output, num_workers=, progress=)`; called again after a stop, it goes on.
    """

    path: str
    of: tuple[str, ...]
    make: Callable[..., int]

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,)


Output = Images | Pairs | Derived


@dataclass(frozen=True)
class Recipe:
    """How to get one data set and how to lay it out.

    Attributes:
        outputs: what it makes; a derived folder stands after what it is made of.
        archives: what can be fetched without an account.
        page: where a person gets it.
        terms: what its authors allow.
        size: of the download, in words.
        needs: recipes whose outputs this one uses.
        originals: folder below `datasets/originals/` for archives and folders got by hand; empty: the recipe's name.
        build: makes all outputs in the given folder instead, from nothing.
    """

    outputs: tuple[Output, ...] = ()
    archives: tuple[Archive, ...] = ()
    page: str = ""
    terms: str = "not known here; read its page"
    size: str = "size not published"
    needs: tuple[str, ...] = ()
    originals: str = ""
    build: Callable[[Path], Path] | None = None


_DIV2K = "https://data.vision.ee.ethz.ch/cvl/DIV2K"
_EDSR = "https://cv.snu.ac.kr/research/EDSR"
_RWSR = "https://data.vision.ee.ethz.ch/alugmayr/real-world-sr"
_REAL_PAIRS = r"(?P<camera>[^/]+)/(?P<split>train|test)/(?P<scale>[234])/(?P<key>[^/]+)_(?P<role>HR|LR)[234]?"
_SPLITS = tuple(f"{split}_x{scale}" for split in ("train", "test") for scale in (2, 3, 4))


def _benchmark(name: str, count: int, *others: str) -> Recipe:
    """One of the small test sets that EDSR's authors have put into one archive."""
    names = (name, *others)
    found_as = tuple(f"{n}/{inner}" for inner in ("HR", "GTmod12", "original") for n in names) + names
    return Recipe(
        (Images(f"{name}/HR", found_as, count),),
        (Archive(f"{_EDSR}/benchmark.tar"),),
        page="https://github.com/sanghyun-son/EDSR-PyTorch",
        size="250 MB with the other test sets",
        originals="benchmark",
    )


def _city100(labels: Mapping[str, str]) -> str:
    """The split of the criteria-comparative-learning paper: numbers up to 20 are for testing."""
    return f"{'test' if int(re.sub(r'[^0-9]', '', labels['key'])) <= 20 else 'train'}_x1"


RECIPES: dict[str, Recipe] = {
    "demo": Recipe(
        (Images("demo/train"), Images("demo/val")),
        build=lambda root: prepare_demo(root / "demo"),
        page="photographs that scikit-image brings along",
        terms="those of scikit-image's data folder",
    ),
    "bsds500": Recipe(
        (
            Images("bsds500/train", ("images/train", "train"), 200),
            Images("bsds500/val", ("images/val", "val"), 100),
            Images("bsds500/test", ("images/test", "test"), 200),
        ),
        (Archive("http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz", 70763455),),
        page="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/",
        terms="research and education, not commercial",
        size="71 MB",
    ),
    "div2k": Recipe(
        (
            Images("DIV2K/DIV2K_train_HR", ("DIV2K_train_HR",), 800),
            Images("DIV2K/DIV2K_valid_HR", ("DIV2K_valid_HR",), 100),
            Derived(
                "DIV2K/DIV2K_train_HR_sub",
                ("DIV2K/DIV2K_train_HR",),
                partial(extract_subimages, crop_size=480, step=240),
            ),
        ),
        (
            Archive(
                f"{_DIV2K}/DIV2K_train_HR.zip",
                3530603713,
                "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
            ),
            Archive(
                f"{_DIV2K}/DIV2K_valid_HR.zip",
                448993893,
                "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
            ),
        ),
        page=f"{_DIV2K}/",
        terms="academic research",
        size="4.0 GB",
    ),
    "flickr2k": Recipe(
        (Images("Flickr2K/Flickr2K_HR", ("Flickr2K_HR",), 2650),),
        (Archive(f"{_EDSR}/Flickr2K.tar"),),
        page="https://github.com/limbee/NTIRE2017",
    ),
    "df2k": Recipe(
        (
            Derived("DF2K/DF2K_HR", ("DIV2K/DIV2K_train_HR", "Flickr2K/Flickr2K_HR"), link_together),
            Derived("DF2K/DF2K_HR_sub", ("DF2K/DF2K_HR",), partial(extract_subimages, crop_size=480, step=240)),
            Derived("DF2K/DF2K_multiscale", ("DF2K/DF2K_HR",), generate_multiscale),
            Derived(
                "DF2K/DF2K_multiscale_sub",
                ("DF2K/DF2K_multiscale",),
                partial(extract_subimages, crop_size=400, step=200),
            ),
        ),
        page="DIV2K and Flickr2K",
        terms="those of DIV2K and Flickr2K",
        size="those of DIV2K and Flickr2K",
        needs=("div2k", "flickr2k"),
    ),
    "ost": Recipe(
        (Images("OST/OST_train", ("OutdoorSceneTrain_v2", "OST_train", "OST_dataset", "OST"), 10324),),
        (Archive("https://openmmlab.oss-cn-hangzhou.aliyuncs.com/datasets/OST_dataset.zip"),),
        page="https://github.com/xinntao/SFTGAN (OutdoorSceneTraining)",
    ),
    "df2k_ost": Recipe(
        page="DIV2K, Flickr2K and OutdoorSceneTraining",
        terms="those of its parts",
        size="those of its parts",
        needs=("df2k", "ost"),
    ),
    "set5": _benchmark("Set5", 5),
    "set14": _benchmark("Set14", 14),
    "b100": _benchmark("B100", 100, "BSDS100", "BSD100"),
    "urban100": _benchmark("Urban100", 100),
    "realsr": Recipe(
        (Pairs("RealSR", _SPLITS, _REAL_PAIRS),),
        page="https://github.com/csjcai/RealSR (version 3, Google Drive)",
    ),
    "realsr_v2": Recipe(
        (
            Pairs("RealSR_v2", _SPLITS, _REAL_PAIRS, ratio=1),
            Derived("RealSR_v2/test_x4/LR_x4_bic", ("RealSR_v2/test_x4/LR",), partial(downscale_bicubic, factor=4)),
        ),
        page="https://github.com/csjcai/RealSR (version 2, Google Drive)",
    ),
    "drealsr": Recipe(
        (
            Pairs(
                "DRealSR",
                _SPLITS,
                r"(?P<split>train|test)_x(?P<scale>[234])/.*?(?P<role>HR|LR)[^/]*/(?P<key>[^/]+?)(_x[1-4]|_HR|_LR\d?)?",
            ),
        ),
        page="https://github.com/xiezw5/Component-Divide-and-Conquer-for-Real-World-Image-Super-Resolution",
    ),
    "aim2019": Recipe(
        (
            Images("AIM2019/train_noisy", ("train-noisy-images",)),
            Images("AIM2019/train_clean", ("train-clean-images",)),
            Pairs(
                "AIM2019",
                ("valid_x4",),
                r"(?P<role>valid-gt-clean|valid-input-noisy)/(?P<key>[^/]+)",
                lambda _labels: "valid_x4",
                frozenset({"valid-gt-clean"}),
            ),
        ),
        tuple(
            Archive(f"{_RWSR}/AIM19/{name}.zip")
            for name in ("valid-gt-clean", "valid-input-noisy", "train-noisy-images", "train-clean-images")
        ),
        page="the AIM 2019 challenge on real-world super-resolution, track 2 (CodaLab)",
    ),
    "ntire2020": Recipe(
        (
            Images("NTIRE2020/train_source", ("track1-train-source", "Corrupted-tr-x")),
            Images("NTIRE2020/train_target", ("train-target", "Corrupted-tr-y", "DIV2K_train_HR"), 800),
            Pairs(
                "NTIRE2020",
                ("valid_x4",),
                r"(?P<role>track1-valid-gt|track1-valid-input|DIV2K_valid_HR|Corrupted-va-[xy])/(?P<key>[^/]+?)(x4)?",
                lambda _labels: "valid_x4",
                frozenset({"track1-valid-gt", "div2k_valid_hr", "corrupted-va-y"}),
            ),
        ),
        tuple(
            Archive(f"{_RWSR}/NTIRE20/{name}.zip")
            for name in ("track1-valid-gt", "track1-valid-input", "track1-train-source", "train-target")
        ),
        page="https://competitions.codalab.org/competitions/22220 (NTIRE 2020, real-world super-resolution, track 1)",
    ),
    "camerasr": Recipe(
        (
            Pairs(
                "CameraSR",
                ("train_x1", "test_x1"),
                r"[^/]*(?P<camera>iphone|nikon)[^/]*/(.*?(?P<role>HR|LR)/(?P<key>[^/]+?)(_HR|_LR)?"
                r"|.*?(?P<key2>\d+)_?(?P<role2>HR|LR|H|L))",
                _city100,
            ),
        ),
        (Archive("https://github.com/ngchc/CameraSR/archive/HEAD.zip"),),
        page="https://github.com/ngchc/CameraSR (City100)",
    ),
    "realsr_zero": Recipe(
        (Images("RealSR-Zero/LR", ("RealSR-Zero", "RealSR_Zero", "RealSRZero", "LR"), 45),),
        page="https://github.com/House-Leo/RealSR-Zero (Google Drive)",
    ),
}
_MAKERS = {path: name for name, recipe in RECIPES.items() for output in recipe.outputs for path in output.paths}


def recipe_for(path: Path | str, root: Path = ROOT) -> str | None:
    """The recipe that makes a path below `root`, or a folder that it lies in; None: there is none."""
    inside = _inside(path, root)
    folders = [] if inside is None else [inside, *inside.parents]
    return next((_MAKERS[f.as_posix()] for f in folders if f.as_posix() in _MAKERS), None)


def command(name: str, root: Path = ROOT) -> str:
    """What to type to make all outputs of a recipe."""
    return f"python scripts/prepare_data.py --dataset {name}" + ("" if root == ROOT else f" --root {root}")


def needed(paths: Iterable[Path | str], root: Path = ROOT) -> dict[str, str]:
    """Recipe -> command, for every recipe that makes a path which is not there."""
    makers = (recipe_for(path, root) for path in paths if not Path(path).exists())
    return {name: command(name, root) for name in makers if name is not None}


def outputs_for(name: str, paths: Iterable[Path | str] | None, root: Path = ROOT) -> list[Output]:
    """The outputs of a recipe that the paths need, in the order of making; all of them where `paths` is None."""
    outputs = RECIPES[name].outputs
    if paths is None:
        return list(outputs)
    wanted = {inside.as_posix() for path in paths if (inside := _inside(path, root)) is not None}
    chosen: list[Output] = []
    for output in reversed(outputs):
        if any(_covers(made, path) for made in output.paths for path in wanted):
            chosen.insert(0, output)
            wanted |= set(output.of) if isinstance(output, Derived) else set()
    return chosen


def _inside(path: Path | str, root: Path) -> Path | None:
    """The path below `root`, without following links; None where it lies elsewhere."""
    try:
        return Path(os.path.abspath(path)).relative_to(os.path.abspath(root))
    except ValueError:
        return None


def _covers(folder: str, path: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")

"""Every path below `datasets/` that an option file reads is made by a recipe from the official layout, and holds what
it should."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data.data_toys import photo
from tests.data.originals import lay_out, pack, write_originals
from tgsr.config.yaml_loader import load_yaml, to_builtin
from tgsr.data.backends import open_source
from tgsr.data.datasets import PairedDataset
from tgsr.data.prepare import Work, prepare, prepare_paths
from tgsr.data.recipes import RECIPES, Derived, command, needed, outputs_for, recipe_for
from tgsr.utils.errors import DataError
from tgsr.utils.image_io import list_images, read_image, save_image

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "options").rglob("*.yml"))


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    """A working folder in which every recipe has been laid out from its official layout."""
    folder = tmp_path_factory.mktemp("laid_out")
    for name in RECIPES:
        lay_out(name, folder / "datasets")
    return folder


def strings(node, key=""):
    """`(key, text)` of every text in a file."""
    if isinstance(node, dict):
        return [found for k, v in node.items() for found in strings(v, k)]
    if isinstance(node, list):
        return [found for v in node for found in strings(v, key)]
    return [(key, node)] if isinstance(node, str) else []


def mappings(node):
    if isinstance(node, (dict, list)):
        yield from [node] if isinstance(node, dict) else []
        for value in node.values() if isinstance(node, dict) else node:
            yield from mappings(value)


OPTIONS = [to_builtin(load_yaml(path)) for path in FILES if "datasets/" in path.read_text()]
NAMED = [(k, text) for data in OPTIONS for k, text in strings(data) if text.startswith("datasets/")]
MADE_BY_STAGES = {text for key, text in NAMED if key in ("output", "target")}
READ = sorted(
    {text for key, text in NAMED if key not in ("output", "target")}
    - {text for _, text in NAMED if any(Path(text).is_relative_to(made) for made in MADE_BY_STAGES)}
)


def test_there_is_something_to_bind():
    assert len(READ) > 25
    assert not MADE_BY_STAGES & {f"datasets/{p}" for r in RECIPES.values() for o in r.outputs for p in o.paths}


@pytest.mark.parametrize("path", READ)
def test_what_option_files_read_is_made_by_a_recipe(path, laid_out, monkeypatch):
    monkeypatch.chdir(laid_out)
    assert recipe_for(path) in RECIPES
    assert list_images(path)
    assert needed([path]) == {}


PAIRS = sorted(
    {
        (data["dataroot_gt"], data["dataroot_lq"])
        for options in OPTIONS
        for data in mappings(options)
        if {"dataroot_gt", "dataroot_lq"} <= set(data) and data["dataroot_lq"] in READ
    }
)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[1])
def test_pairs_of_option_files_are_partners(pair, laid_out, monkeypatch):
    monkeypatch.chdir(laid_out)
    gt, lq = pair
    scale = 1 if "_x1/" in lq else 4
    dataset = PairedDataset(dataroot_gt=Path(gt), dataroot_lq=Path(lq), scale=scale)
    assert len(dataset) == len(list_images(lq)) >= 2
    for i in range(len(dataset)):
        batch = dataset.val_sample(i)
        assert batch.gt.shape[-1] == scale * batch.lq.shape[-1]
        assert (batch.gt[..., ::scale, ::scale] - batch.lq).abs().mean() < 0.1, "the LQ of this very image"


def test_the_paths_that_a_recipe_names_are_those_it_makes(laid_out):
    for name, recipe in RECIPES.items():
        for output in recipe.outputs:
            for path in output.paths:
                made = laid_out / "datasets" / path
                if "_x2" in path or "_x3" in path:  # the toys have no such sets
                    assert not made.exists()
                else:
                    assert list_images(made), name


def test_df2k_is_cut_as_the_papers_cut_it(laid_out):
    root = laid_out / "datasets" / "DF2K"
    for folder, size in (("DF2K_HR", (480, 496)), ("DF2K_HR_sub", (480, 480)), ("DF2K_multiscale_sub", (400, 400))):
        assert {read_image(p).shape[:2] for p in list_images(root / folder)} == {size}
    names = [p.relative_to(root / "DF2K_HR").as_posix() for p in list_images(root / "DF2K_HR")]
    assert names[:3] == ["DIV2K_train_HR/0001.png", "DIV2K_train_HR/0002.png", "Flickr2K_HR/000001.png"]
    first = read_image(root / "DF2K_HR_sub/DIV2K_train_HR/0001_s002.png")
    assert np.array_equal(first, photo(1, 480, 496)[:, 16:])
    assert [p.name for p in list_images(root / "DF2K_multiscale")][:4] == [f"0001T{k}.png" for k in range(4)]


def test_city100_is_parted_as_the_paper_parts_it(laid_out):
    root = laid_out / "datasets" / "CameraSR"
    assert [p.name for p in list_images(root / "train_x1/HR/iPhone")] == ["021.png", "100.png"]
    assert [p.name for p in list_images(root / "test_x1/LR/Nikon")] == ["001.png", "020.png"]


def test_bicubic_lr_of_version_2_is_a_quarter_of_its_lr(laid_out):
    root = laid_out / "datasets" / "RealSR_v2" / "test_x4"
    lr, small = read_image(root / "LR/Nikon/Nikon_002.png"), read_image(root / "LR_x4_bic/Nikon/Nikon_002.png")
    assert lr.shape == (64, 96, 3)
    assert small.shape == (16, 24, 3)
    assert abs(lr.mean() - small.mean()) < 1


def test_only_what_is_needed_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("div2k", "flickr2k"):
        write_originals(name, Path("datasets/originals") / name)
    wanted = Path("datasets/DF2K/DF2K_HR_sub")
    assert needed([wanted]) == {"df2k": "python scripts/prepare_data.py --dataset df2k"}
    assert prepare_paths([wanted], Work(num_workers=1)) == []
    assert {p.name for p in Path("datasets/DF2K").iterdir()} == {"DF2K_HR", "DF2K_HR_sub"}
    assert {p.name for p in Path("datasets/DIV2K").iterdir()} == {"DIV2K_train_HR"}
    assert needed([wanted]) == {}


def test_a_stopped_cutting_goes_on_and_shows_nothing_half(tmp_path, monkeypatch):
    lay_out("div2k", tmp_path)
    write_originals("flickr2k", tmp_path / "originals" / "flickr2k")
    import tgsr.data.subimages as subimages

    real, calls = subimages.save_image, []

    def stop_at_the_third(path, *args, **kwargs):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(path, *args, **kwargs)

    monkeypatch.setattr(subimages, "save_image", stop_at_the_third)
    sub = tmp_path / "DF2K" / "DF2K_HR_sub"
    with pytest.raises(KeyboardInterrupt):
        prepare("df2k", Work(tmp_path, only=(sub,), num_workers=1))
    assert not sub.exists()
    assert needed([sub], tmp_path) == {"df2k": command("df2k", tmp_path)}
    prepare("df2k", Work(tmp_path, only=(sub,), num_workers=1))
    assert len(list_images(sub)) == 8
    assert len(calls) == 3 + 6, "what was there was not written again"
    assert [p.name for p in sub.parent.iterdir() if p.name.startswith(".")] == []


def test_archives_that_lie_among_the_originals_are_unpacked(tmp_path):
    inner = write_originals("ost", tmp_path / "made")
    pack(inner / "OutdoorSceneTrain_v2" / "animal", tmp_path / "zips" / "OutdoorSceneTrain_v2" / "animal.zip")
    pack(inner / "OutdoorSceneTrain_v2" / "sky", tmp_path / "zips" / "OutdoorSceneTrain_v2" / "sky.zip")
    root = tmp_path / "datasets"
    pack(tmp_path / "zips", root / "originals" / "ost" / "OST_dataset.zip")
    said: list[str] = []
    prepare("ost", Work(root, say=said.append))
    assert len(list_images(root / "OST" / "OST_train")) == 4
    assert f"{root}/OST/OST_train: 4 images (the complete set has 10324)" in said
    before = sorted((root / "originals").rglob("*"))
    prepare("ost", Work(root))
    assert sorted((root / "originals").rglob("*")) == before


def test_downloads_stop_when_nothing_is_missing(tmp_path, monkeypatch):
    import tgsr.data.prepare as module

    asked = []

    def fetch(url, path, *, sha256, remedy, progress):
        asked.append(url.rsplit("/", 1)[1])
        return pack(write_originals("ntire2020", tmp_path / "made") / path.stem, path)

    monkeypatch.setattr(module, "download", fetch)
    root = tmp_path / "datasets"
    assert prepare_paths([root / "NTIRE2020/valid_x4/HR"], Work(root)) == []
    assert asked == ["track1-valid-gt.zip", "track1-valid-input.zip"]
    assert len(list_images(root / "NTIRE2020/valid_x4/LR")) == 2


def test_pairs_of_another_version_are_refused(tmp_path):
    write_originals("realsr_v2", tmp_path / "old")
    wrong = r"4 of 4 pairs do not have the ratio 4: Canon/Canon_000 96x64 and 96x64.*realsr_v2"
    with pytest.raises(DataError, match=wrong):
        prepare("realsr", Work(tmp_path / "datasets", source=tmp_path / "old"))
    assert not list((tmp_path / "datasets").rglob("*.png"))


def test_what_cannot_be_fetched_is_said_for_all_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay_out("set14", Path("datasets"))
    paths = ["RealSR/test_x4/HR/Canon", "DRealSR/test_x4/HR", "Set14/HR", "DIV2K5G/Group0/LQ"]
    problems = prepare_paths([Path("datasets") / p for p in paths], Work())
    assert [problem.split(" ")[0] for problem in problems] == ["realsr", "drealsr"]
    for problem, page in zip(problems, ("csjcai/RealSR", "xiezw5/Component"), strict=True):
        for part in (f"https://github.com/{page}", "size", "terms", "into datasets/originals/", "--from FOLDER"):
            assert part in problem


def test_each_problem_is_told_once_and_all_are_told(tmp_path, monkeypatch):
    import tgsr.data.prepare as module

    def refuse(url, path, *, sha256, remedy, progress):
        raise DataError(f"no network: {url}")

    monkeypatch.setattr(module, "download", refuse)
    monkeypatch.chdir(tmp_path)
    paths = ["DF2K/DF2K_HR_sub", "DIV2K/DIV2K_train_HR", "OST/OST_train"]
    problems = prepare_paths([Path("datasets") / p for p in paths], Work())
    assert [p.rsplit("/", 1)[1] for p in problems] == ["DIV2K_train_HR.zip", "Flickr2K.tar", "OST_dataset.zip"]


def test_data_sets_name_the_command_of_an_absent_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"Set14/HR: no such folder; python scripts/prepare_data\.py --dataset set14$"):
        open_source([Path("datasets/Set14/HR")])
    with pytest.raises(DataError, match=r"mine: no such folder; check the path"):
        open_source([Path("datasets/mine")])


def test_recipes_are_found_by_the_folder_not_by_its_beginning(tmp_path):
    assert recipe_for("datasets/DIV2K/DIV2K_train_HR_sub") == "div2k"
    assert recipe_for("datasets/DIV2K/DIV2K_train_HR_subs") is None
    assert recipe_for("datasets/RealSR/test_x4/HR/Canon/Canon_001.png") == "realsr"
    assert recipe_for("datasets/RealSR_v2/test_x4/LR_x4_bic/Nikon") == "realsr_v2"
    assert recipe_for("elsewhere/Set14/HR") is None
    assert recipe_for(tmp_path / "Set14/HR", tmp_path) == "set14"
    lr = outputs_for("realsr_v2", ["datasets/RealSR_v2/test_x4/LR_x4_bic/Nikon"])
    assert [type(output) for output in lr] == [type(RECIPES["realsr_v2"].outputs[0]), Derived]


def test_originals_that_come_later_are_laid_out_too(tmp_path):
    made = write_originals("drealsr", tmp_path / "made")
    originals = tmp_path / "datasets" / "originals" / "drealsr" / "x4"
    for part, sets in (("Test_x4", ["test_x4"]), ("Train_x4", ["test_x4", "train_x4"])):
        (originals / part).parent.mkdir(parents=True, exist_ok=True)
        (made / "x4" / part).rename(originals / part)
        prepare("drealsr", Work(tmp_path / "datasets"))
        assert sorted(p.name for p in (tmp_path / "datasets/DRealSR").iterdir()) == sets
    shutil.rmtree(originals)
    prepare("drealsr", Work(tmp_path / "datasets"))


def test_new_originals_replace_links_but_no_files(tmp_path):
    for edge, folder in ((32, "a"), (64, "b")):
        write_originals("drealsr", tmp_path / folder, edge)
        prepare("drealsr", Work(tmp_path / "datasets", source=tmp_path / folder))
    image = tmp_path / "datasets/DRealSR/test_x4/HR/Canon_1.png"
    assert read_image(image).shape[0] == 64
    image.unlink()
    save_image(image, photo(1, 8, 8))
    prepare("drealsr", Work(tmp_path / "datasets", source=tmp_path / "a"))
    assert read_image(image).shape[0] == 8


def test_the_readme_names_every_set():
    text = (ROOT / "datasets" / "README.md").read_text()
    assert [name for name in RECIPES if f"`{name}`" not in text] == []

"""The demo set, layouts of known sets, downloads, and the scripts."""

import runpy
import socket
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.data.data_toys import photo, photo_folder
from tgsr.data.datasets import GTDataset, PairedDataset
from tgsr.data.demo import VAL_CROP, photographs, prepare_demo
from tgsr.data.prepare import NAMES, prepare, prepare_missing
from tgsr.degradations.base import SPACES
from tgsr.tasks.artefacts import GROUPS, VERSION
from tgsr.tasks.sets import points
from tgsr.tasks.task import TaskSet
from tgsr.utils.download import download, sha256_of, unpack
from tgsr.utils.errors import ConfigError, DataError, UserError
from tgsr.utils.files import write_json
from tgsr.utils.image_io import list_images, read_image, save_image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_demo_needs_no_network_and_is_made_once(tmp_path, no_network):
    root = prepare_demo(tmp_path / "demo")
    train, val = list_images(root / "train"), list_images(root / "val")
    assert len(train) >= 40
    assert len(val) >= 6
    assert all(read_image(p).shape == (VAL_CROP, VAL_CROP, 3) for p in val)
    before = {p: p.stat().st_mtime_ns for p in (*train, *val)}
    prepare_demo(root)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    train[0].unlink()
    prepare_demo(root)
    assert train[0].exists()


def test_demo_parts_share_no_pixel_row(tmp_path):
    root = prepare_demo(tmp_path / "demo")
    source = {p.stem: p for p in photographs()}
    for path in list_images(root / "val"):
        image, square = read_image(source[path.stem]), read_image(path)
        top = next(t for t in range(len(image)) if np.array_equal(image[t : t + VAL_CROP, -VAL_CROP:], square))
        assert 0 <= top <= len(image) - VAL_CROP
        used = image[:, :-VAL_CROP]
        for crop in (read_image(p) for p in list_images(root / "train") if p.stem.startswith(path.stem + "_s")):
            starts = np.argwhere((used[: len(used) - len(crop) + 1, :] == crop[0, 0]).all(axis=2))
            assert any(
                np.array_equal(used[y : y + len(crop), x : x + crop.shape[1]], crop) for y, x in starts.tolist()
            )


def test_dataset_option_prepares_the_demo(tmp_path):
    dataset = GTDataset(dataroot_gt=tmp_path / "demo" / "val", scale=4, prepare="demo")
    assert len(dataset) >= 6
    with pytest.raises(ConfigError, match="makes folders train and val"):
        prepare_missing("demo", tmp_path / "demo2" / "test")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("keep")
    with pytest.raises(DataError, match="holds something else"):
        prepare_demo(tmp_path / "mine")


def test_folders_are_found_linked_and_counted(tmp_path):
    photo_folder(tmp_path / "src" / "BSR" / "BSDS500" / "data" / "images" / "train", 3)
    photo_folder(tmp_path / "src" / "BSR" / "BSDS500" / "data" / "images" / "test", 2)
    said: list[str] = []
    target = prepare("bsds500", tmp_path / "datasets", source=tmp_path / "src", say=said.append)
    assert (target / "train").is_symlink()
    assert len(list_images(target / "train")) == 3
    assert "not found: images/val or val" in said
    assert any("3 images (the complete set has 200)" in line for line in said)
    assert f"    dataset: {{type: GTDataset, dataroot_gt: {target / 'test'}}}" in said
    prepare("bsds500", tmp_path / "datasets", source=tmp_path / "src")
    prepare("bsds500", tmp_path / "copied", source=tmp_path / "src", copy=True)
    assert not (tmp_path / "copied" / "bsds500" / "train").is_symlink()
    with pytest.raises(DataError, match="nothing of div2k is in this folder; expected DIV2K_train_HR"):
        prepare("div2k", tmp_path / "datasets", source=tmp_path / "src")


@pytest.mark.parametrize(
    ("name", "pairs", "file"),
    [
        ("realsr", [("Nikon/Test/4/N_1_HR.png", "Nikon/Test/4/N_1_LR4.png")], "meta_info_test_x4.txt"),
        ("realsr", [("V3/Canon/Train/2/C_HR.png", "V3/Canon/Train/2/C_LR2.png")], "meta_info_train_x2.txt"),
        ("drealsr", [("Test_x4/test_HR/s_1_x1.png", "Test_x4/test_LR/s_1_x4.png")], "meta_info_test_x4.txt"),
        ("aim2019", [("valid-gt-clean/0801.png", "valid-input-noisy/0801.png")], "meta_info_test_x4.txt"),
        ("ntire2020", [("DIV2K_valid_HR/0801.png", "Corrupted-va-x/0801.png")], "meta_info_test_x4.txt"),
        ("camerasr", [("City100_iPhoneX/HR/1.png", "City100_iPhoneX/LR/1.png")], "meta_info_test_x1.txt"),
        ("camerasr", [("City100_Nikon/001H.png", "City100_Nikon/001L.png")], "meta_info_test_x1.txt"),
    ],
)
def test_pairs_are_listed(tmp_path, name, pairs, file):
    for gt, lq in pairs:
        save_image(tmp_path / "src" / gt, photo(0))
        save_image(tmp_path / "src" / lq, photo(0)[::4, ::4])
    save_image(tmp_path / "src" / "other" / "lonely.png", photo(1))
    target = prepare(name, tmp_path / "datasets", source=tmp_path / "src")
    assert (target / file).read_text() == "".join(f"{gt}, {lq}\n" for gt, lq in pairs)
    images = target / "images"
    dataset = PairedDataset(dataroot_gt=images, dataroot_lq=images, scale=4, meta_info=target / file)
    assert dataset.val_sample(0).lq.shape[-1] == 24


def test_every_set_says_what_to_do_without_a_network(tmp_path, no_network):
    for name in NAMES[1:]:
        with pytest.raises(UserError, match=rf"--dataset {name} --from FOLDER"):
            prepare(name, tmp_path / name)
    with pytest.raises(ConfigError, match="did you mean 'div2k'"):
        prepare("div2", tmp_path)


def test_downloads_are_checked_and_kept(tmp_path):
    origin = tmp_path / "origin.bin"
    origin.write_bytes(bytes(range(256)) * 10)
    target = tmp_path / "sub" / "copy.bin"
    download(origin.as_uri(), target, sha256=sha256_of(origin)[:12])
    assert target.read_bytes() == origin.read_bytes()
    with pytest.raises(DataError, match="another checksum"):
        download(origin.as_uri(), tmp_path / "bad.bin", sha256="00000000")
    assert not list(tmp_path.glob("bad.bin*"))
    with pytest.raises(UserError, match="cannot be downloaded.*by hand and put it at"):
        download((tmp_path / "none").as_uri(), tmp_path / "x.bin")


def test_archives_cannot_write_outside(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../evil.txt", "x")
    with pytest.raises(DataError, match="outside the folder"):
        unpack(tmp_path / "evil.zip", tmp_path / "out")
    (tmp_path / "cut.tar").write_bytes(b"not an archive")
    with pytest.raises(DataError, match="damaged archive"):
        unpack(tmp_path / "cut.tar", tmp_path / "out")


def script(monkeypatch, name: str, *args: object) -> int:
    """Run a script in this process; its exit code."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
    try:
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_scripts_end_with_one_line(tmp_path, monkeypatch, capsys):
    gt = photo_folder(tmp_path / "gt", 2)
    assert script(monkeypatch, "generate_meta_info", "--input", gt, "--meta_info", tmp_path / "m.txt") == 0
    assert (tmp_path / "m.txt").read_text().startswith("gt/img_0.png (72,96,3)\n")
    assert script(monkeypatch, "pack_crops", "--input", gt, "--output", tmp_path / "p", "--crop_size", 32) == 0
    points(space=SPACES.get("SecondOrder")(), num_tasks=2).save(tmp_path / "tasks.json")
    made = tmp_path / "bench"
    own = ("make_benchmark", "--gt", gt, "--tasks", tmp_path / "tasks.json")
    assert script(monkeypatch, *own, "--output", made) == 0
    assert script(monkeypatch, "make_benchmark", "--output", made, "--verify") == 0

    tasks = TaskSet.load(tmp_path / "tasks.json")
    groups = {"schema": GROUPS, "version": VERSION, "tasks": next(iter(tasks.origins())), "groups": [[tasks.names[1]]]}
    write_json(tmp_path / "groups.json", groups)
    assert script(monkeypatch, *own, "--output", tmp_path / "grouped", "--groups", tmp_path / "groups.json") == 0
    assert (tmp_path / "grouped" / "group_0").is_dir()
    capsys.readouterr()
    write_json(tmp_path / "groups.json", {**groups, "tasks": "another"})
    assert script(monkeypatch, *own, "--output", tmp_path / "foreign", "--groups", tmp_path / "groups.json") == 2
    assert "other tasks" in capsys.readouterr().err
    assert not (tmp_path / "foreign").exists()
    assert script(monkeypatch, "create_lmdb", "--input", tmp_path / "none", "--output", tmp_path / "x.lmdb") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'none'}: no such folder")
    assert error.count("\n") == 1

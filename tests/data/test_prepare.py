"""The demo set, layouts of known sets, downloads, and the scripts."""

import re
import runpy
import socket
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.data_toys import photo, photo_folder
from tgsr.data.datasets import GTDataset, PairedDataset
from tgsr.data.demo import VAL_CROP, photographs, prepare_demo
from tgsr.data.prepare import NAMES, Work, prepare, prepare_missing
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
    work = Work(tmp_path / "datasets", source=tmp_path / "src", say=said.append)
    prepare("bsds500", work)
    target = tmp_path / "datasets" / "bsds500"
    assert (target / "train").is_symlink()
    assert len(list_images(target / "train")) == 3
    assert "not found: images/val or val" in said
    assert any("3 images (the complete set has 200)" in line for line in said)
    assert f"    dataset: {{type: GTDataset, dataroot_gt: {target / 'test'}}}" in said
    prepare("bsds500", work)
    prepare("bsds500", replace(work, root=tmp_path / "copied", copy=True))
    assert not (tmp_path / "copied" / "bsds500" / "train").is_symlink()
    with pytest.raises(DataError, match="nothing of div2k is in this folder; expected DIV2K_train_HR"):
        prepare("div2k", work)


@pytest.mark.parametrize(
    ("name", "gt", "lq", "made"),
    [
        ("realsr", "Nikon/Test/4/N_1_HR.png", "Nikon/Test/4/N_1_LR4.png", "RealSR/test_x4/{}/Nikon/N_1.png"),
        ("realsr", "V3/Canon/Train/2/C_HR.png", "V3/Canon/Train/2/C_LR2.png", "RealSR/train_x2/{}/Canon/C.png"),
        ("drealsr", "Test_x4/test_HR/s_1_x4.png", "Test_x4/test_LR/s_1_x1.png", "DRealSR/test_x4/{}/s_1.png"),
        ("drealsr", "Test_x4/test_HR/s_1_x1.png", "Test_x4/test_LR/s_1_x4.png", "DRealSR/test_x4/{}/s_1.png"),
        ("aim2019", "valid-gt-clean/0801.png", "valid-input-noisy/0801.png", "AIM2019/valid_x4/{}/0801.png"),
        ("ntire2020", "DIV2K_valid_HR/0801.png", "Corrupted-va-x/0801.png", "NTIRE2020/valid_x4/{}/0801.png"),
        ("ntire2020", "DIV2K_valid_HR/0801.png", "Corrupted-va-x/0801x4.png", "NTIRE2020/valid_x4/{}/0801.png"),
        ("camerasr", "City100_iPhoneX/HR/1.png", "City100_iPhoneX/LR/1.png", "CameraSR/test_x1/{}/iPhone/1.png"),
        ("camerasr", "City100_Nikon/021H.PNG", "City100_Nikon/021L.PNG", "CameraSR/train_x1/{}/Nikon/021.png"),
    ],
)
def test_pairs_get_one_name(tmp_path, name, gt, lq, made):
    scale = int(re.search(r"_x(\d)/", made)[1])
    save_image(tmp_path / "src" / gt, photo(0))
    save_image(tmp_path / "src" / lq, photo(0)[::scale, ::scale])
    save_image(tmp_path / "src" / "other" / "lonely.png", photo(1))
    prepare(name, Work(tmp_path / "datasets", source=tmp_path / "src"))
    files = [tmp_path / "datasets" / made.format(role) for role in ("HR", "LR")]
    assert list_images(tmp_path / "datasets") == sorted(files)
    assert np.array_equal(read_image(files[0]), photo(0))
    dataset = PairedDataset(dataroot_gt=files[0].parent, dataroot_lq=files[1].parent, scale=scale)
    assert dataset.val_sample(0).lq.shape[-1] == 96 // scale


def test_every_set_says_what_to_do_without_a_network(tmp_path, no_network):
    parts = {"df2k": "div2k", "df2k_ost": "div2k"}
    for name in NAMES[1:]:
        wanted = f"--dataset {parts.get(name, name)} --root {tmp_path / name} --from FOLDER"
        with pytest.raises(UserError, match=wanted):
            prepare(name, Work(tmp_path / name))
    with pytest.raises(ConfigError, match="did you mean 'div2k'"):
        prepare("div2", Work(tmp_path))


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
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        link = tarfile.TarInfo("images")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    with pytest.raises(DataError, match="an entry is refused"):
        unpack(tmp_path / "evil.tar", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
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

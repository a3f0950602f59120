"""Collections of images as users have them: equal names, files that Windows wrote, stores that were cut."""

import json
import os

import numpy as np
import pytest

from tests.data.data_toys import photo, photo_folder, task_set
from tests.data.test_field_images import damaged_jpeg
from tgsr.data.backends import open_source, read_meta_info
from tgsr.data.datasets import GTDataset, PairedDataset
from tgsr.data.lmdb_store import write_lmdb
from tgsr.data.packed import PackedSource, pack_images
from tgsr.data.plan import SamplePlan
from tgsr.data.preflight import inspect
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.image_io import save_image


def test_folders_of_one_name_get_as_many_parts_as_it_takes(tmp_path):
    for set_name in ("DIV2K", "Flickr2K"):
        photo_folder(tmp_path / set_name / "HR", num=2)
    photo_folder(tmp_path / "other", num=1)
    roots = [tmp_path / "DIV2K" / "HR", tmp_path / "Flickr2K" / "HR"]
    names = open_source(roots).names
    assert names == ["DIV2K/HR/img_0.png", "DIV2K/HR/img_1.png", "Flickr2K/HR/img_0.png", "Flickr2K/HR/img_1.png"]
    assert open_source([roots[0], tmp_path / "other"]).names[-1] == "other/img_0.png"  # one part where it is enough
    with pytest.raises(DataError, match="named twice; name every folder once"):
        open_source([roots[0], tmp_path / "DIV2K" / ".." / "DIV2K" / "HR"])


def test_pairs_in_several_folders_stay_together(tmp_path):
    for k, root in enumerate(("a", "b")):
        for i in range(2):
            gt = photo(10 * k + i)
            save_image(tmp_path / root / "HR" / f"{i}.png", gt)
            save_image(tmp_path / root / "LR" / f"{i}x4.png", np.ascontiguousarray(gt[::4, ::4]))
    high, low = ([tmp_path / root / kind for root in ("a", "b")] for kind in ("HR", "LR"))
    data = PairedDataset(dataroot_gt=high, dataroot_lq=low, scale=4, filename_tmpl="{}x4", gt_size=32)
    assert [data.name(i) for i in range(4)] == ["a/HR/0", "a/HR/1", "b/HR/0", "b/HR/1"]
    assert not inspect(data, cache=tmp_path / "cache").problems
    for i in range(4):
        assert np.array_equal(data.lq_source.read(i), data.source.read(i)[::4, ::4])
    (tmp_path / "m.txt").write_text("0.png,0x4.png\n1.png, 1x4.png\n")
    one = PairedDataset(dataroot_gt=high[0], dataroot_lq=low[0], scale=4, meta_info=tmp_path / "m.txt")
    assert np.array_equal(one.lq_source.read(1), one.source.read(1)[::4, ::4])
    with pytest.raises(ConfigError, match="dataroot_gt names 2 folders and dataroot_lq 1"):
        PairedDataset(dataroot_gt=high, dataroot_lq=low[0], scale=4)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_meta_info_that_windows_wrote(tmp_path, encoding):
    path = tmp_path / "m.txt"
    lines = ("a\\0.png, a\\0x4.png", "ü/1.png,ü/1x4.png", "# nothing", "b, c.png (480,480,3) 1", "")
    path.write_bytes("\r\n".join(lines).encode(encoding))
    entries = read_meta_info(path)
    assert entries[:2] == [("a/0.png", "a/0x4.png"), ("ü/1.png", "ü/1x4.png")]
    assert entries[2] == ("b, c.png", None)


def test_a_comma_in_a_name_is_part_of_it(tmp_path):
    (tmp_path / "m.txt").write_text("Paris,France.png\n")
    assert read_meta_info(tmp_path / "m.txt") == [("Paris,France.png", None)]


@pytest.mark.parametrize(("content", "words"), [(b"a\0.png\n", "line 1 holds a NUL"), (b"\xff\xff\xff", "cannot be")])
def test_damaged_meta_info_is_one_line(tmp_path, content, words):
    (tmp_path / "m.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"m\.txt: .*{words}"):
        read_meta_info(tmp_path / "m.txt")


def lmdb_of(tmp_path):
    pytest.importorskip("lmdb")
    write_lmdb(open_source(photo_folder(tmp_path / "in", num=12)), tmp_path / "x.lmdb")
    return tmp_path / "x.lmdb" / "data.mdb"


def test_an_lmdb_that_was_cut_in_half(tmp_path):
    """Reading behind the end of a memory map ends the process with SIGBUS."""
    file = lmdb_of(tmp_path)
    os.truncate(file, file.stat().st_size // 2)
    data = GTDataset(dataroot_gt=file.parent, io_backend="lmdb", scale=4)
    problems = inspect(data, cache=tmp_path / "cache").problems
    assert len(problems) == 12
    assert "data.mdb is cut" in problems[0].text


@pytest.mark.parametrize("content", [b"no database at all" * 1000, bytes(8192), b""])
def test_an_lmdb_of_other_bytes(tmp_path, content):
    file = lmdb_of(tmp_path)
    file.write_bytes(content)
    data = GTDataset(dataroot_gt=file.parent, io_backend="lmdb", scale=4)
    assert len(inspect(data, cache=tmp_path / "cache").problems) == 12


def change(index, key, value):
    index["images"][1][key] = value
    return index


@pytest.mark.parametrize(
    "damage",
    [
        lambda index: [],
        lambda index: {**index, "images": None},
        lambda index: {**index, "images": []},
        lambda index: {k: v for k, v in index.items() if k != "images"},
        lambda index: change(index, "offset", 10**12),
        lambda index: change(index, "height", -3),
        lambda index: change(index, "dtype", "O"),
        lambda index: change(index, "name", None),
    ],
)
def test_a_damaged_packed_index_is_one_line(tmp_path, damage):
    pack_images(open_source(photo_folder(tmp_path / "in", num=2)), tmp_path / "p")
    file = tmp_path / "p" / "index.json"
    file.write_text(json.dumps(damage(json.loads(file.read_text()))))
    with pytest.raises(DataError, match="(pack|make) it again"):
        PackedSource(tmp_path / "p")


def test_preflight_finds_damage_inside_a_jpeg(tmp_path, capfd):
    folder = photo_folder(tmp_path / "in", num=2, height=480, width=480)
    for kind in ("zeros", "noise"):
        (folder / f"{kind}.jpg").write_bytes(damaged_jpeg(kind))
    save_image(folder / "whole.jpg", photo(3, 480, 480))
    data = GTDataset(dataroot_gt=folder, scale=4)
    found = {os.path.basename(p.place): p.text for p in inspect(data, cache=tmp_path / "cache").problems}
    assert set(found) == {"zeros.jpg", "noise.jpg"}
    assert all("damaged" in text for text in found.values())
    assert "Corrupt" not in capfd.readouterr().err


def test_an_image_that_shrinks_during_a_run_is_no_longer_padded(tmp_path):
    folder = photo_folder(tmp_path / "in", num=1)
    data = GTDataset(dataroot_gt=folder, scale=4, tasks=task_set(1), gt_size=64)
    assert data[SamplePlan(0, 0, 0)].gt.shape == (64, 64, 3)
    save_image(folder / "img_0.png", photo(1, 40, 40))
    with pytest.raises(DataError, match=r"img_0\.png: it is 40x40, smaller than the crop gt_size 64"):
        data[SamplePlan(0, 0, 0)]


def test_names_that_are_no_text(tmp_path):
    """A file name of other bytes than UTF-8, as old disks have them."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    photo_folder(folder, num=2)
    assert not inspect(GTDataset(dataroot_gt=folder, scale=4), cache=tmp_path / "cache").problems

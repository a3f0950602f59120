"""Meta-info files, LMDB, packed files, sub-images."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.basicsr_oracle import load_basicsr
from tests.data.data_toys import photo, photo_folder
from tgsr.data import lmdb_store
from tgsr.data.backends import MetaEntry, open_source, read_meta_info
from tgsr.data.lmdb_store import LmdbSource, write_lmdb
from tgsr.data.packed import PackedSource, pack_images
from tgsr.data.subimages import (
    extract_subimages,
    generate_multiscale,
    window_starts,
    write_meta_info,
    write_meta_info_pairs,
)
from tgsr.utils.errors import ConfigError, DataError, UserError
from tgsr.utils.image_io import list_images, read_image, save_image


def test_meta_info_forms(tmp_path):
    file = tmp_path / "m.txt"
    file.write_text("# note\n0001_s001.png (480,480,3)\nsub/a b.png (4, 5, 1) 1\nplain.png\ngt/1.png, lq/1.png\n\n")
    assert read_meta_info(file) == [
        MetaEntry("0001_s001.png", None),
        MetaEntry("sub/a b.png", None),
        MetaEntry("plain.png", None),
        MetaEntry("gt/1.png", "lq/1.png"),
    ]
    file.write_text("\n# nothing\n")
    with pytest.raises(DataError, match="names no images"):
        read_meta_info(file)


def test_meta_info_chooses_and_orders(tmp_path):
    photo_folder(tmp_path / "a")
    photo_folder(tmp_path / "b", 2)
    (tmp_path / "b" / "img_0.png").rename(tmp_path / "b" / "other.png")
    source = open_source([tmp_path / "a", tmp_path / "b"], names=["img_3.png", "other.png"])
    assert [Path(source.place(i)).parent.name for i in range(2)] == ["a", "b"]
    assert np.array_equal(source.read(0), photo(3))
    assert source.size(0) == (72, 96)


def test_lmdb_round_trip_with_a_map_that_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_store, "_FIRST_MAP_BYTES", 2**16)
    monkeypatch.setattr(lmdb_store, "_PER_TRANSACTION", 2)
    folder = photo_folder(tmp_path / "gt", 6, height=120, width=160)
    save_image(folder / "sub" / "deep.png", photo(9).astype(np.float32) / 300, bit_depth=16)
    assert write_lmdb(open_source(folder), tmp_path / "x.lmdb") == 7
    source = open_source(tmp_path / "x.lmdb", io_backend="lmdb")
    disk = open_source(folder)
    for i in range(7):
        assert np.array_equal(source.read(i), disk.read(i))
        assert source.size(i) == disk.size(i)
    lines = (tmp_path / "x.lmdb" / "meta_info.txt").read_text().splitlines()
    assert lines[0] == "img_0.png (120,160,3) 1"
    chosen = open_source(tmp_path / "x.lmdb", io_backend="lmdb", names=["img_4", "img_1.png"])
    assert np.array_equal(chosen.read(0), disk.read(4))


def test_lmdb_goes_on_after_a_stop_and_shows_it(tmp_path):
    disk = open_source(photo_folder(tmp_path / "gt", 6))

    class Stops:
        names = disk.names
        place = staticmethod(disk.place)

        def __len__(self):
            return len(disk)

        def read(self, index):
            if index == 4:
                raise DataError("stop")
            return disk.read(index)

    root = tmp_path / "x.lmdb"
    with pytest.raises(DataError, match="stop"):
        write_lmdb(Stops(), root, num_threads=1)
    with pytest.raises(DataError, match=r"no meta_info\.txt; its writing was not finished"):
        LmdbSource(root)
    write_lmdb(disk, root)
    assert len(LmdbSource(root)) == 6
    assert write_lmdb(disk, root) == 0


def test_lmdb_verify_finds_a_difference(tmp_path):
    folder = photo_folder(tmp_path / "gt", 3)
    write_lmdb(open_source(folder), tmp_path / "x.lmdb")
    save_image(folder / "img_1.png", photo(50))
    with pytest.raises(DataError, match=r"what was written differs from .*img_1\.png"):
        write_lmdb(open_source(folder), tmp_path / "x.lmdb")


def test_lmdb_written_by_basicsr_is_read_and_the_other_way(tmp_path):
    lmdb_util = load_basicsr("basicsr.utils.lmdb_util")
    file_client = load_basicsr("basicsr.utils.file_client")
    folder = photo_folder(tmp_path / "gt", 3)
    names = [f"img_{i}.png" for i in range(3)]
    lmdb_util.make_lmdb_from_imgs(str(folder), str(tmp_path / "b.lmdb"), names, [n[:-4] for n in names])
    theirs = LmdbSource(tmp_path / "b.lmdb")
    assert all(np.array_equal(theirs.read(i), photo(i)) for i in range(3))
    write_lmdb(open_source(folder), tmp_path / "o.lmdb")
    client = file_client.FileClient("lmdb", db_paths=[str(tmp_path / "o.lmdb")], client_keys=["gt"])
    image = load_basicsr("basicsr.utils").imfrombytes(client.get("img_2", "gt"))
    assert np.array_equal(image[..., ::-1], photo(2))


def test_lmdb_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match="needs the package lmdb; pip install lmdb"):
        open_source(tmp_path, io_backend="lmdb")


def test_not_a_store(tmp_path):
    with pytest.raises(DataError, match=r"no data\.mdb; make it with"):
        open_source(tmp_path, io_backend="lmdb")
    with pytest.raises(DataError, match="not a packed folder"):
        open_source(tmp_path, io_backend="packed")


def test_packed_crops_and_damage(tmp_path):
    folder = photo_folder(tmp_path / "gt", 2)
    assert pack_images(open_source(folder), tmp_path / "p", crop_size=48, step=40) == 2 * 2 * 3
    source = PackedSource(tmp_path / "p")
    assert source.names[:2] == ["img_0_s001", "img_0_s002"]
    assert np.array_equal(source.read(5), photo(0)[24:, 48:])
    assert np.array_equal(source.read_crop(0, 3, 5, 7, 9), photo(0)[3:10, 5:14])
    with open(tmp_path / "p" / "pixels.bin", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match="has 1000 bytes, the index says"):
        PackedSource(tmp_path / "p")


@pytest.mark.parametrize(
    ("length", "thresh", "expected"),
    [(480, 0, [0]), (700, 0, [0, 220]), (720, 0, [0, 240]), (730, 0, [0, 240, 250]), (730, 10, [0, 240]), (479, 0, [])],
)
def test_window_starts(length, thresh, expected):
    assert window_starts(length, 480, 240, thresh) == expected


def test_subimages_cover_and_are_not_made_twice(tmp_path):
    folder = photo_folder(tmp_path / "gt", 2)
    for workers in (1, 2):
        count = extract_subimages(folder, tmp_path / "sub", crop_size=40, step=30, num_workers=workers)
        assert count == 2 * 3 * 3
    assert np.array_equal(read_image(tmp_path / "sub" / "img_1_s009.png"), photo(1)[32:72, 56:96])
    with pytest.raises(DataError, match="no image is as large as the crop of 400"):
        extract_subimages(folder, tmp_path / "none", crop_size=400)
    with pytest.raises(ConfigError, match="lies in the input folder"):
        extract_subimages(folder, folder / "sub")


def test_multiscale_sizes(tmp_path):
    folder = photo_folder(tmp_path / "gt", 1, height=120, width=160)
    assert generate_multiscale(folder, tmp_path / "ms", shortest_edge=60) == 4
    sizes = [read_image(p).shape[:2] for p in list_images(tmp_path / "ms")]
    assert sizes == [(90, 120), (60, 80), (40, 53), (60, 80)]


def test_meta_info_is_written_and_read_back(tmp_path):
    photo_folder(tmp_path / "gt", 2)
    photo_folder(tmp_path / "lq", 2)
    assert write_meta_info([tmp_path / "gt"], tmp_path, tmp_path / "m.txt") == 2
    assert (tmp_path / "m.txt").read_text().splitlines()[0] == "gt/img_0.png (72,96,3)"
    write_meta_info_pairs([tmp_path / "gt"], [tmp_path / "lq"], (tmp_path, tmp_path), tmp_path / "p.txt")
    assert read_meta_info(tmp_path / "p.txt")[1] == MetaEntry("gt/img_1.png", "lq/img_1.png")
    (tmp_path / "gt" / "img_1.png").write_bytes(b"broken")
    assert write_meta_info([tmp_path / "gt"], tmp_path, tmp_path / "m.txt", check=True) == 1
    with pytest.raises(DataError, match=r"img_1\.png"):
        write_meta_info([tmp_path / "gt"], tmp_path, tmp_path / "m.txt")

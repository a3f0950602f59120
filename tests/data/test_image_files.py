"""Reading and writing image files."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import torch

from tests.data.data_toys import photo
from tgsr.utils.errors import DataError, UserError
from tgsr.utils.image_io import (
    decode_image,
    list_images,
    probe_image,
    read_image,
    read_image_alpha,
    save_image,
    to_tensor,
    to_uint8,
)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_lossless_formats_return_the_same_rgb(tmp_path, suffix):
    image = photo(0)
    image[0, 0] = (255, 0, 10)
    save_image(tmp_path / f"a{suffix}", image)
    assert np.array_equal(read_image(tmp_path / f"a{suffix}"), image)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats_come_close(tmp_path, suffix):
    save_image(tmp_path / f"a{suffix}", photo(0))
    assert np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - photo(0)).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_keep_more_than_eight(tmp_path, suffix):
    fine = np.linspace(0.5, 0.51, 64 * 48 * 3, dtype=np.float32).reshape(48, 64, 3)
    save_image(tmp_path / f"a{suffix}", fine, bit_depth=16)
    back = read_image(tmp_path / f"a{suffix}")
    assert back.dtype == np.float32
    assert np.abs(back - fine).max() <= 0.5 / 65535 + 1e-7
    assert probe_image(tmp_path / f"a{suffix}").bit_depth == 16


def test_grey_is_repeated_and_alpha_kept_apart(tmp_path):
    grey = photo(1)[..., 0]
    save_image(tmp_path / "grey.png", grey)
    back, no_alpha = read_image_alpha(tmp_path / "grey.png")
    assert no_alpha is None
    assert all(np.array_equal(back[..., c], grey) for c in range(3))
    assert probe_image(tmp_path / "grey.png").channels == 1
    for depth, kind in ((8, np.uint8), (16, np.float32)):
        save_image(tmp_path / "rgba.png", photo(2), alpha=grey, bit_depth=depth)
        colour, alpha = read_image_alpha(tmp_path / "rgba.png")
        assert alpha is not None
        assert alpha.dtype == kind
        assert np.array_equal(to_uint8(colour), photo(2))
        assert np.array_equal(to_uint8(alpha), grey)
        assert np.array_equal(to_uint8(read_image(tmp_path / "rgba.png")), photo(2))


def test_grey_with_alpha_png(tmp_path):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes([10 * y, 200]) for y in range(4))
    head = struct.pack(">IIBBBBB", 1, 4, 8, 4, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    colour, alpha = decode_image(data, place="la.png", keep_alpha=True)
    assert colour[:, 0, 1].tolist() == [0, 10, 20, 30]
    assert alpha is not None
    assert set(alpha.ravel().tolist()) == {200}


@pytest.mark.parametrize(
    ("suffix", "depth"), [(".png", 8), (".png", 16), (".jpg", 8), (".webp", 8), (".tif", 8), (".bmp", 8)]
)
def test_every_cut_of_a_file_is_noticed(tmp_path, suffix, depth):
    path = tmp_path / f"a{suffix}"
    save_image(path, photo(3), bit_depth=depth)
    data = path.read_bytes()
    info = probe_image(path)
    assert (info.height, info.width, info.channels) == (72, 96, 3)
    for end in [0, 5, 20, *range(40, len(data) - 2, len(data) // 12), len(data) - 2]:
        with pytest.raises(DataError, match="a.x"):
            decode_image(data[:end], place="a.x")


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "text.png").write_text("no image at all")
    with pytest.raises(DataError, match=r"text\.png: cannot be read as an image"):
        read_image(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="folder holds no images"):
        list_images(tmp_path / "empty")


def _with_orientation(jpeg: bytes, value: int) -> bytes:
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, value, 0, 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def test_jpeg_orientation_as_opencv_applies_it(tmp_path):
    jpeg = cv2.imencode(".jpg", photo(4))[1].tobytes()
    for value in range(1, 9):
        path = tmp_path / f"{value}.jpg"
        path.write_bytes(_with_orientation(jpeg, value))
        expected = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        assert np.array_equal(read_image(path), expected), value
        assert probe_image(path).height == expected.shape[0]


def test_list_is_sorted_recursive_and_without_hidden_files(tmp_path):
    for name in ("b/2.png", "a.jpg", "b/1.PNG", ".hidden.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)] == ["a.jpg", "b/1.PNG", "b/2.png"]


def test_tensors_round_trip_and_clip():
    image = photo(5)
    assert np.array_equal(to_uint8(to_tensor(image)), image)
    assert to_uint8(torch.tensor([[[-0.1]], [[0.5]], [[1.2]]])).tolist() == [[[0, 128, 255]]]


def test_saving_says_why_it_cannot(tmp_path):
    with pytest.raises(DataError, match="cannot be written as '.xyz'"):
        save_image(tmp_path / "a.xyz", photo(0))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_image(tmp_path / "file" / "a.png", photo(0))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]

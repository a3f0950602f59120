"""Image files as cameras, scanners and programs write them: the stored colours, or one line with the file's name."""

import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from tests.data.data_toys import photo
from tgsr.utils.errors import DataError
from tgsr.utils.image_io import (
    can_hold,
    captured_complaints,
    decode_image,
    jpeg_damage,
    list_images,
    probe_image,
    read_image,
    read_image_alpha,
    read_picture,
    save_image,
)

RGB = photo(0)
GREY = RGB[..., 1]
ALPHA = np.tile(np.linspace(20, 255, RGB.shape[1]).astype(np.uint8), (RGB.shape[0], 1))
RGBA = np.dstack([RGB, ALPHA])
DEEP = RGB.astype(np.uint16) * 257
SHARE = ALPHA[..., None] / 255
TIFFS = {
    "straight": (RGBA, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "associated": (np.dstack([np.rint(RGB * SHARE), ALPHA]).astype(np.uint8), {"extrasamples": ["assocalpha"]}),
    "associated16": (np.uint16(np.rint(np.dstack([RGB * SHARE, ALPHA]) * 257)), {"extrasamples": ["assocalpha"]}),
    "straight16": (RGBA.astype(np.uint16) * 257, {"extrasamples": ["unassalpha"]}),
    "infrared": (RGBA, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    "five16": (np.dstack([RGBA, ALPHA]).astype(np.uint16) * 257, {"extrasamples": ["unspecified"] * 2}),
    "planes16": (np.moveaxis(DEEP, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
    "big": (DEEP, {"photometric": "rgb", "bigtiff": True, "byteorder": ">"}),
    "tiles": (RGB, {"photometric": "rgb", "tile": (32, 32), "compression": "zlib", "predictor": True}),
    "half": ((RGB / 255).astype(np.float16), {"photometric": "rgb"}),
    "double": (RGB / 255, {"photometric": "rgb"}),
    "grey16": (DEEP[..., 1], {"photometric": "minisblack"}),
    "negative16": (65535 - DEEP[..., 1], {"photometric": "miniswhite"}),
    "grey_alpha16": (np.dstack([DEEP[..., 1], DEEP[..., 0]]), {"extrasamples": ["unassalpha"]}),
    "grey_float": ((GREY / 255).astype(np.float32), {"photometric": "minisblack"}),
}


def as_bytes(image):
    return image.astype(float) * (1 if image.dtype == np.uint8 else 255)


@pytest.mark.parametrize("kind", TIFFS)
def test_tiffs_of_every_sample_type(tmp_path, kind):
    samples, tags = TIFFS[kind]
    is_grey = samples.ndim == 2 or samples.shape[-1] == 2
    tags = {"photometric": "minisblack" if is_grey else "rgb", **tags}
    tifffile.imwrite(tmp_path / "a.tif", samples, metadata=None, **tags)
    image, alpha = read_image_alpha(tmp_path / "a.tif")
    wanted = np.repeat(GREY[..., None], 3, axis=2) if is_grey else RGB
    tolerance = 8 if kind == "associated" else 0.1  # 8 bits of a colour times 20/255 hold no more
    assert np.abs(as_bytes(image) - wanted).max() <= tolerance
    assert (alpha is not None) == any("alpha" in e for e in tags.get("extrasamples", []))
    if alpha is not None and not is_grey:
        assert np.abs(as_bytes(alpha) - ALPHA).max() < 0.1
    info = probe_image(tmp_path / "a.tif")
    assert (info.height, info.width, info.channels) == (*RGB.shape[:2], 1 if is_grey else 3)
    assert np.array_equal(read_image(tmp_path / "a.tif"), image)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (RGB.astype(np.float32), "floats from .* to .*; those from 0"),
        (np.where(RGB > 100, np.nan, RGB / 255.0).astype(np.float32), "NaN"),
        (RGB.astype(np.int16), "signed"),
        (RGB.astype(np.complex64), "complex"),
        (np.dstack([RGB, ALPHA, ALPHA]).astype(np.uint16), "no tag says which are red"),
    ],
)
def test_tiffs_that_are_no_picture_are_refused_by_name(tmp_path, samples, words):
    grey = samples.shape[-1] > 3
    tags = {"photometric": "minisblack", "planarconfig": "contig"} if grey else {"photometric": "rgb"}
    tifffile.imwrite(tmp_path / "a.tif", samples, **tags)
    with pytest.raises(DataError, match=rf"a\.tif: .*{words}"):
        read_image(tmp_path / "a.tif")


def test_compressed_tiffs_of_other_programs(tmp_path):
    for name, options in (("lzw", {"compression": "tiff_lzw"}), ("jpeg", {"compression": "jpeg", "quality": 98})):
        Image.fromarray(RGB).save(tmp_path / f"{name}.tif", **options)
        assert np.abs(read_image(tmp_path / f"{name}.tif").astype(int) - RGB).mean() < 1
    cv2.imwrite(str(tmp_path / "lzw16.tif"), DEEP[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert np.abs(read_image(tmp_path / "lzw16.tif") * 255 - RGB).max() < 0.01
    data = bytearray((tmp_path / "lzw.tif").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    (tmp_path / "lzw.tif").write_bytes(data)
    with pytest.raises(DataError, match=r"lzw\.tif: cannot be read"):
        read_image(tmp_path / "lzw.tif")


@pytest.mark.parametrize("value", [2, 3, 6, 8])
@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp", ".jpg"])
def test_orientation_turns_colours_and_alpha_and_the_header(tmp_path, suffix, value):
    path = tmp_path / f"a{suffix}"
    with_alpha = suffix != ".jpg"
    stored = RGBA if with_alpha else RGB
    if suffix == ".tif":
        extra = {"extrasamples": ["unassalpha"], "extratags": [(274, "H", 1, value, True)]}
        tifffile.imwrite(path, stored, photometric="rgb", **extra)
    else:
        exif = Image.Exif()
        exif[274] = value
        Image.fromarray(stored).save(path, exif=exif, lossless=True, exact=True, quality=100)
    turn = {2: np.fliplr, 3: lambda x: np.rot90(x, 2), 6: lambda x: np.rot90(x, -1), 8: np.rot90}[value]
    image, alpha = read_image_alpha(path)
    info = probe_image(path)
    assert image.shape[:2] == (info.height, info.width) == turn(RGB).shape[:2]
    assert np.abs(image.astype(int) - turn(RGB)).mean() < 4
    if with_alpha:
        assert np.array_equal(alpha, turn(ALPHA))


def test_bytes_behind_the_end_of_a_picture_do_not_matter():
    film = b"\0\0\0\x18ftypmp42" + np.random.default_rng(1).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
    for suffix in (".jpg", ".png", ".webp", ".bmp"):
        data = cv2.imencode(suffix, RGB)[1].tobytes()
        assert np.array_equal(decode_image(data + film, place="a")[0], decode_image(data, place="a")[0])
        if suffix != ".bmp":
            with pytest.raises(DataError, match="truncated|cannot be read"):
                decode_image(data[: len(data) // 2], place="a")
    thumbnail = cv2.imencode(".jpg", RGB[:16, :16])[1].tobytes()
    jpeg = cv2.imencode(".jpg", RGB)[1].tobytes()
    body = b"Exif\0\0" + thumbnail  # its end is not the picture's
    with_thumbnail = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
    assert decode_image(with_thumbnail, place="a")[0].shape == RGB.shape
    with pytest.raises(DataError, match="truncated"):
        decode_image(with_thumbnail[: -len(jpeg) // 2], place="a")


def damaged_jpeg(kind: str) -> bytes:
    data = bytearray(cv2.imencode(".jpg", cv2.resize(RGB, (480, 360)))[1].tobytes())
    middle = slice(len(data) // 2, len(data) // 2 + 400)
    noise = np.random.default_rng(2).integers(0, 256, 400, dtype=np.uint8).tobytes()
    data[middle] = bytes(400) if kind == "zeros" else noise
    return bytes(data)


def test_damage_inside_a_jpeg_is_heard(tmp_path, capfd):
    for kind in ("zeros", "noise"):
        (tmp_path / f"{kind}.jpg").write_bytes(damaged_jpeg(kind))
        with pytest.raises(DataError, match=rf"{kind}\.jpg: the image is damaged"):
            read_picture(tmp_path / f"{kind}.jpg")
    assert "Corrupt" not in capfd.readouterr().err
    whole = cv2.imencode(".jpg", RGB)[1].tobytes()
    padded = whole[:-2] + bytes(64) + whole[-2:]
    with captured_complaints() as complaints:
        decode_image(padded, place="a")
    assert jpeg_damage(complaints(), padded) == ""
    assert jpeg_damage("Corrupt JPEG data: 2 extraneous bytes before marker 0xd9\n", whole) == ""


def test_words_of_others_pass_a_capture(capfd):
    with captured_complaints() as complaints:
        import os

        os.write(2, b"Corrupt JPEG data: premature end of data segment\nwords of another\n")
    assert "premature end" in complaints()
    assert capfd.readouterr().err == "words of another\n"


def test_a_few_kilobytes_that_claim_to_be_gigabytes(tmp_path, monkeypatch):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(3751))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for read in (read_image, read_picture):
            with pytest.raises(DataError, match=r"bomb\.png: 30000x30000 are 900 million pixels.*TGSR_MAX_PIXELS"):
                read(tmp_path / "bomb.png")
    save_image(tmp_path / "a.png", RGB)
    monkeypatch.setenv("TGSR_MAX_PIXELS", "100")
    with pytest.raises(DataError, match="limit of 100"):
        read_image(tmp_path / "a.png")
    monkeypatch.setenv("TGSR_MAX_PIXELS", str(10**9))
    assert read_image(tmp_path / "a.png").shape == RGB.shape


def test_sizes_that_the_bytes_cannot_hold_are_refused_before_decoders_fetch_memory(tmp_path):
    """A JPEG's decoder paints the rest grey unheard; a PNG's fetches what a chunk claims to be long."""
    for progressive in (False, True):
        file = io.BytesIO()
        Image.fromarray(RGB).save(file, "JPEG", progressive=progressive)
        data = bytearray(file.getvalue())
        at = data.find(b"\xff\xc2" if progressive else b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", 16000, 16000)
        (tmp_path / "a.jpg").write_bytes(data)
        with pytest.raises(DataError, match=rf"a\.jpg: .*\({len(data)} bytes cannot hold 16000x16000 pixels\)"):
            read_image(tmp_path / "a.jpg")
    flat = np.full((1600, 1600, 3), 128, np.uint8)  # the fewest bytes that a whole picture can have
    for options in ({}, {"progressive": True, "optimize": True}):
        Image.fromarray(flat).save(tmp_path / "flat.jpg", quality=10, **options)
        assert np.array_equal(read_image(tmp_path / "flat.jpg"), flat)
    save_image(tmp_path / "a.png", RGB)
    png = bytearray((tmp_path / "a.png").read_bytes())
    png[png.find(b"IDAT") - 4] = 0x7F
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(DataError, match=r"a\.png: the image is truncated"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".webp", ".tif"])
def test_the_pixel_limit_is_ours_in_every_format(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS and 100)  # None: theirs is off
    save_image(tmp_path / f"a{suffix}", RGB, quality=None)
    assert np.array_equal(read_image(tmp_path / f"a{suffix}"), RGB)


def wide_gamut() -> bytes:
    """Display P3, which phones take."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {b"rXYZ": (0.515, 0.241, -0.001), b"gXYZ": (0.292, 0.692, 0.042), b"bXYZ": (0.157, 0.067, 0.784)}
    for i in range(struct.unpack(">I", profile[128:132])[0]):
        tag, at, _ = struct.unpack(">4sII", profile[132 + 12 * i : 144 + 12 * i])
        if tag in primaries:
            profile[at + 8 : at + 20] = struct.pack(">iii", *[round(v * 65536) for v in primaries[tag]])
    return bytes(profile)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_colours_are_seen_as_before_in_every_format(tmp_path, suffix, depth):
    if depth == 16 and can_hold(suffix, is_deep=True):
        return
    profile = wide_gamut()
    colour = np.full((16, 16, 3), (230, 60, 40), np.uint8)
    save_image(tmp_path / f"a{suffix}", colour / 255.0, bit_depth=depth, quality=100, profile=profile)
    picture = read_picture(tmp_path / f"a{suffix}")
    target = ImageCms.createProfile("sRGB")

    def seen(pixels, own):
        source = ImageCms.ImageCmsProfile(io.BytesIO(own)) if own else target
        image = Image.fromarray(np.rint(as_bytes(pixels)).astype(np.uint8))
        return np.asarray(ImageCms.profileToProfile(image, source, target))[8, 8].astype(int)

    assert np.abs(seen(picture.pixels, picture.profile) - seen(colour, profile)).max() <= 3
    assert (picture.profile == profile) == (suffix != ".bmp")


def test_inks_are_read_by_their_profile(tmp_path):
    """A CMYK file's profile says what its inks look like; a made-up one that swaps two of them is obeyed."""
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg", quality=98)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - RGB).mean() < 4
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "b.jpg", icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 200)
    with pytest.raises(DataError, match=r"b\.jpg: cannot be read"):
        read_image(tmp_path / "b.jpg")


def test_formats_tell_what_they_cannot_hold():
    assert "at most 16383" in can_hold(".webp", size=(16800, 96))
    assert "at most 65500" in can_hold(".JPG", size=(10, 65501))
    assert "4 GB" in can_hold(".tif", size=(60000, 60000))
    assert can_hold(".png", size=(60000, 60000), is_deep=True, has_alpha=True) == ""
    assert (can_hold(".jpg", is_deep=True), can_hold(".bmp", has_alpha=True)) == ("16 bits", "transparency")


def test_lossless_webp_is_lossless(tmp_path):
    save_image(tmp_path / "a.webp", RGB, alpha=ALPHA, quality=None)
    colours, alpha = read_image_alpha(tmp_path / "a.webp")
    assert np.array_equal(colours, RGB)
    assert np.array_equal(alpha, ALPHA)
    assert probe_image(tmp_path / "a.webp").is_lossless
    save_image(tmp_path / "b.webp", RGB)
    assert not probe_image(tmp_path / "b.webp").is_lossless


def test_other_formats_are_named(tmp_path, caplog):
    save_image(tmp_path / "a.png", RGB)
    for name, head in (("b.heic", b"\0\0\0\x18ftypheic"), ("c.gif", b"GIF89a"), ("d.jpg", b"\0\0\0\x18ftypheic")):
        (tmp_path / name).write_bytes(head + bytes(64))
    assert [p.name for p in list_images(tmp_path)] == ["a.png", "d.jpg"]
    assert "2 pictures of formats that are not read are left out: b.heic, c.gif" in caplog.text
    with pytest.raises(DataError, match=r"d\.jpg: .*HEIC files are not read; convert it"):
        read_image(tmp_path / "d.jpg")


def test_a_folder_linked_into_itself_is_walked_once(tmp_path):
    save_image(tmp_path / "in" / "a.png", RGB)
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self").symlink_to("self")
    (tmp_path / "elsewhere").mkdir()
    save_image(tmp_path / "elsewhere" / "b.png", RGB)
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    found = [p.relative_to(tmp_path / "in").as_posix() for p in list_images(tmp_path / "in")]
    assert found == ["a.png", "linked/b.png"]

"""Image files in and out: any of PNG, JPEG, TIFF, BMP, WebP to RGB arrays and back. The only place that knows BGR."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import struct
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageCms

from tgsr.utils.errors import DataError
from tgsr.utils.files import write_atomic
from tgsr.utils.image_header import ImageError, ImageInfo, broken_scan, missing_end, parse_bytes, parse_header
from tgsr.utils.tiff import read_tiff

logger = logging.getLogger("tgsr")

IMAGE_EXTENSIONS = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".jpe": 65500, ".jfif": 65500, ".webp": 16383, ".png": 1_000_000}
"""Pixels that a format's width and height can have."""
MAX_PIXELS = 2**28
"""Of an image that is read, unless $TGSR_MAX_PIXELS says otherwise: a few kilobytes may claim to be gigabytes."""
OTHER_EXTENSIONS = frozenset(
    {".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".exr", ".hdr", ".psd", ".svg", ".tga", ".ico", ".pcx",
     ".dng", ".nef", ".arw", ".cr2", ".cr3", ".orf", ".raf", ".rw2"}
)  # fmt: skip
"""Pictures that are not read: named where they are found, since nothing else tells of them."""
JPEG_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif")
_DEEP = (".png", ".tif", ".tiff")
_WITH_ALPHA = (*_DEEP, ".webp")
_WITH_PROFILE = (*_DEEP, *JPEG_EXTENSIONS, ".webp")
_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_NOT_AN_IMAGE = "cannot be read as an image"
_REDO = "copy or download it again, or remove it"
_COMPLAINT = re.compile(r"Corrupt JPEG data: (?:(\d+) extraneous bytes before marker 0xd9|.+)")
_CAPTURING = threading.Lock()


def is_image_name(name: str) -> bool:
    """Whether the file name ends like an image's and is not hidden."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not os.path.basename(name).startswith(".")


def can_hold(
    suffix: str, *, size: tuple[int, int] | None = None, is_deep: bool = False, has_alpha: bool = False
) -> str:
    """What a format cannot hold, in words; empty where it can hold all.

    Args:
        suffix: `.png`, ...
        size: height and width.
        is_deep: more than 8 bits.
        has_alpha: beside the colours.
    """
    suffix = suffix.lower()
    longest = LONGEST_SIDE.get(suffix, 2**31 - 1)
    if size is not None and max(size) > longest:
        return f"{size[1]}x{size[0]} pixels: a side of {suffix} is at most {longest}"
    depth = (2 if is_deep else 1) * (4 if has_alpha else 3)
    if size is not None and suffix not in LONGEST_SIDE and size[0] * size[1] * depth >= 2**32 - 2**20:
        return f"{size[1]}x{size[0]} pixels: a {suffix} has at most 4 GB"
    if is_deep and suffix not in _DEEP:
        return "16 bits"
    return "transparency" if has_alpha and suffix not in _WITH_ALPHA else ""


def list_images(folder: Path | str) -> list[Path]:
    """All image files under `folder`, at any depth, sorted by their path inside it.

    Raises:
        DataError: the folder is absent, cannot be read or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.is_file() else "no such folder"
        remedy = "check the path; datasets/README.md tells how to get the data"
        raise DataError(problem, place=str(folder), remedy=remedy)
    found = sorted(walk_files(folder))
    names = [name for name in found if is_image_name(name)]
    others = [name for name in found if os.path.splitext(name)[1].lower() in OTHER_EXTENSIONS]
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        logger.warning("%s: %d pictures of formats that are not read are left out: %s", folder, len(others), shown)
    if not names:
        raise DataError(
            "the folder holds no images", place=str(folder), remedy=f"expected {', '.join(sorted(IMAGE_EXTENSIONS))}"
        )
    return [folder / n for n in names]


def walk_files(folder: Path | str) -> Iterator[str]:
    """Paths inside `folder` of all files at any depth that are not hidden; a link back to a folder above is left out.

    Raises:
        DataError: a folder cannot be read.
    """
    try:
        yield from _walk(str(folder), "", frozenset())
    except OSError as error:
        place = str(error.filename or folder)
        raise DataError(f"the folder cannot be read: {error.strerror or error}", place=place) from None


def _walk(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    stat = os.stat(folder)
    here = (stat.st_dev, stat.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path):  # False, not an error, for a link to itself
                yield from _walk(entry.path, prefix + entry.name + "/", above | {here})
            else:
                yield prefix + entry.name


def probe_image(path: Path | str) -> ImageInfo:
    """Size and kind of an image from its header, without decoding (about 0.1 ms).

    Raises:
        DataError: absent, empty, or not an image.
    """
    try:
        with open(path, "rb") as file:
            info = parse_header(file)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise _unusable(error, str(path)) from None
        raise DataError(f"cannot be opened: {getattr(error, 'strerror', '') or error}", place=str(path)) from None
    if info is None:  # a rare format: let the decoder tell
        image = read_image(path)
        depth = 8 if image.dtype == np.uint8 else 16
        info = ImageInfo(image.shape[0], image.shape[1], 3, depth, False, Path(path).suffix.lower().lstrip("."))
    if min(info.height, info.width) < 1:
        raise DataError(f"{_NOT_AN_IMAGE}: its header says {info.width}x{info.height}", place=str(path), remedy=_REDO)
    return info


def read_image(path: Path | str) -> np.ndarray:
    """Read an image file.

    Returns:
        `(H, W, 3)` RGB: uint8 for files of 8 bits, float32 in [0, 1] for deeper ones. Grey is repeated, alpha dropped,
        the orientation of EXIF and TIFF applied.

    Raises:
        DataError: absent, unreadable, truncated, or with more pixels than `MAX_PIXELS`.
    """
    return decode_image(_read_bytes(path), place=str(path))[0]


def read_image_alpha(path: Path | str) -> tuple[np.ndarray, np.ndarray | None]:
    """Like `read_image`, with the alpha channel `(H, W)` of the same type, or None where there is none."""
    return decode_image(_read_bytes(path), place=str(path), keep_alpha=True)


@dataclass(frozen=True)
class Picture:
    """An image file with all that a result should keep.

    Attributes:
        pixels: `(H, W, 3)` RGB, uint8 or float32 in [0, 1].
        alpha: `(H, W)` of the same type, or None.
        info: its header.
        profile: ICC profile that the pixels are meant in; None: sRGB.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    info: ImageInfo
    profile: bytes | None


def read_picture(path: Path | str) -> Picture:
    """Read an image file to restore it; unlike `read_image` it refuses a JPEG that its decoder finds damaged."""
    data, info = _read_bytes(path), probe_image(path)
    with captured_complaints() as complaints:
        pixels, alpha = decode_image(data, place=str(path), keep_alpha=True)
    if damage := jpeg_damage(complaints(), data):
        raise DataError(damage, place=str(path), remedy=_REDO)
    profile = info.profile
    fits = profile is not None and profile[16:20] == (b"GRAY" if info.channels == 1 else b"RGB ")
    return Picture(pixels, alpha, info, profile if fits else None)


def decode_image(data: bytes, *, place: str, keep_alpha: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode the bytes of an image file; see `read_image`.

    Args:
        data: the whole file.
        place: path or key for messages.
        keep_alpha: also return the alpha channel.
    """
    if not data:
        raise DataError("the file is empty", place=place, remedy=_REDO)
    try:
        info = parse_bytes(data)
        if missing_end(data, info):
            raise DataError("the image is truncated: its end is missing", place=place, remedy=_REDO)
        if damage := broken_scan(data, info):
            raise DataError(damage, place=place, remedy=_REDO)
        if info is not None:
            check_pixels(info.height, info.width, place)
        image, alpha = _decode(data, info, keep_alpha)
        image, alpha = _normalise(image), None if alpha is None else _normalise(alpha)
    except (ImageError, struct.error) as error:
        raise _unusable(error, place) from None
    except cv2.error as error:
        raise DataError(f"{_NOT_AN_IMAGE}: {error.err or error}", place=place, remedy=_REDO) from None
    except MemoryError:
        raise DataError("there is not enough memory to decode it", place=place, remedy="cut it up") from None
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    orientation = info.orientation if info else 1
    return _orient(image, orientation), None if alpha is None else _orient(alpha, orientation)


def check_pixels(height: int, width: int, place: str) -> None:
    """DataError for an image of more than `MAX_PIXELS` pixels."""
    try:
        limit = int(os.environ.get("TGSR_MAX_PIXELS") or MAX_PIXELS)
    except ValueError:
        raise DataError(f"TGSR_MAX_PIXELS is '{os.environ['TGSR_MAX_PIXELS']}', not a number") from None
    if height * width > limit:
        raise DataError(
            f"{width}x{height} are {height * width / 1e6:,.0f} million pixels, more than the limit of {limit:,}",
            place=place,
            remedy="cut it into parts; or, where it is meant, raise the environment's TGSR_MAX_PIXELS",
        )


def _decode(data: bytes, info: ImageInfo | None, keep_alpha: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """`(H, W, 1 or 3)` RGB and alpha as stored, not yet turned upright."""
    if info is not None and info.format == "tiff":
        if info.profile is not None and info.profile[16:20] == b"CMYK" and info.bit_depth == 8:
            return _printed(data, info.profile), None
        return read_tiff(data)
    if info is not None and info.profile is not None and info.profile[16:20] == b"CMYK":
        return _printed(data, info.profile), None
    with_alpha = keep_alpha and info is not None and info.has_alpha
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED if with_alpha else _COLOUR)
    if image is None:
        raise ImageError("", remedy=_REDO)
    alpha = None
    if with_alpha and image.ndim == 3 and image.shape[2] in (2, 4):
        alpha = np.ascontiguousarray(image[..., -1])
        image = image[..., :-1]
    if image.ndim == 2 or image.shape[2] == 1:
        return image.reshape(*image.shape[:2], 1), alpha
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2RGB), alpha


def _printed(data: bytes, profile: bytes) -> np.ndarray:
    """sRGB of CMYK inks by the profile that says what colours they have."""
    try:
        image = Image.open(io.BytesIO(data))
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        return np.asarray(ImageCms.profileToProfile(image, source, target, outputMode="RGB"))
    except (OSError, ValueError, SyntaxError, ImageCms.PyCMSError, Image.DecompressionBombError) as error:
        raise ImageError(" ".join(str(error).split())[:100]) from None


def _unusable(error: Exception, place: str) -> DataError:
    text = " ".join(str(error).split())
    remedy = getattr(error, "remedy", "") or _REDO
    return DataError(f"{_NOT_AN_IMAGE}: {text}" if text else _NOT_AN_IMAGE, place=place, remedy=remedy)


@contextlib.contextmanager
def captured_complaints() -> Iterator[Callable[[], str]]:
    """What decoders write to the process's standard error inside; the value, called afterwards, is their text.

    libjpeg paints over what it cannot decode and tells nobody but standard error. Lines of others are passed on.
    """
    text: list[str] = []
    with _CAPTURING, tempfile.TemporaryFile() as file:
        try:
            original = os.dup(2)
        except OSError:  # no standard error: nothing can be heard
            yield lambda: ""
            return
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: "".join(text)
        finally:
            os.dup2(original, 2)
            file.seek(0)
            text.append(file.read().decode(errors="replace"))
            others = [line for line in text[0].splitlines(True) if not re.match("Corrupt JPEG|Premature end", line)]
            os.write(original, "".join(others).encode())
            os.close(original)


def jpeg_damage(complaints: str, data: bytes) -> str:
    """What a JPEG's decoder complained of, as a problem; empty where nothing of the picture is lost.

    Args:
        complaints: see `captured_complaints`.
        data: the whole file; a few bytes or a run of one byte before the end are padding that some cameras write.
    """
    for match in _COMPLAINT.finditer(complaints):
        extra = int(match[1] or 0)
        end = data.rfind(b"\xff\xd9")
        if extra > 2 and len(set(data[end - extra : end])) == 1:
            continue
        if not 1 <= extra <= 2:
            return f"the image is damaged ({match[0].partition(': ')[2]})"
    return ""


def _read_bytes(path: Path | str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise DataError("no such file", place=str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"cannot be opened: {getattr(error, 'strerror', '') or error}", place=str(path)) from None


def _normalise(image: np.ndarray) -> np.ndarray:
    """uint8 stays; deeper integers become float32 in [0, 1]; floats must be there already."""
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind == "f":
        low, high = float(image.min()), float(image.max())
        if not np.isfinite([low, high]).all():
            raise ImageError("some samples are NaN or infinite", remedy="replace them")
        if low < -1 / 510 or high > 1 + 1 / 510:  # else clipping changes no 8-bit level
            problem = f"its samples are floats from {low:.4g} to {high:.4g}; those from 0 (black) to 1 (white) are read"
            raise ImageError(problem, remedy="scale them, or save 8 or 16 bits")
        return np.clip(image.astype(np.float32), 0, 1)
    return (image / np.float32(np.iinfo(image.dtype).max)).astype(np.float32)


def _orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn `(H, W[, C])` upright; `orientation` is EXIF's 1 to 8."""
    if orientation >= 5:
        image = np.swapaxes(image, 0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """`(H, W, C)` uint8 or float in [0, 1] to `(C, H, W)` float32 in [0, 1]."""
    # OpenCV takes interleaved bytes apart with vector instructions: 0.15 ms for 400x400, NumPy's transpose takes 0.22
    is_colour = image.dtype == np.uint8 and image.shape[2] == 3
    planes = np.stack(cv2.split(image)) if is_colour else np.ascontiguousarray(image.transpose(2, 0, 1))
    tensor = torch.from_numpy(planes)
    return tensor.float().div_(255) if tensor.dtype == torch.uint8 else tensor.float()


def to_uint8(image: torch.Tensor | np.ndarray) -> np.ndarray:
    """Round to 8 bits.

    Args:
        image: `(3, H, W)` or `(1, 3, H, W)` tensor, or `(H, W[, C])` array, in [0, 1] (values outside are clipped).

    Returns:
        `(H, W[, C])` uint8.
    """
    if isinstance(image, torch.Tensor):
        if image.ndim == 4:
            image = image.squeeze(0)
        image = image.detach().float().cpu().permute(1, 2, 0).numpy()
    if image.dtype == np.uint8:
        return image
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def save_image(
    path: Path | str,
    image: torch.Tensor | np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    bit_depth: int = 8,
    quality: int | None = 95,
    png_level: int = 1,
    profile: bytes | None = None,
) -> None:
    """Write an image file, whole or not at all; the extension says the format.

    Args:
        path: where; folders are made.
        image: RGB, `(3, H, W)` tensor in [0, 1] or `(H, W, 3)` / `(H, W)` array, uint8 or float in [0, 1].
        alpha: `(H, W)` uint8 or float in [0, 1] to store beside the colours (PNG, TIFF, WebP).
        bit_depth: 8, or 16 for PNG and TIFF.
        quality: 1 to 100, for JPEG and WebP; None: lossless WebP, JPEG at 100.
        png_level: zlib level of PNG and TIFF; 1 is fast and about 10 % larger than the default 6.
        profile: ICC profile of the colours, embedded; converted to sRGB where the format has no place for it.

    Raises:
        DataError: unknown extension, or more pixels than the format takes.
        UserError: the disk is full or the folder cannot be written.
    """
    suffix = Path(path).suffix.lower()
    pixels = _deep(image, bit_depth)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if problem := can_hold(suffix, size=(pixels.shape[0], pixels.shape[1])):
        raise DataError(f"cannot be written: {problem}", place=str(path), remedy="use .png")
    if profile is not None and suffix not in _WITH_PROFILE:
        pixels, profile = _in_srgb(pixels, profile), None
    if alpha is not None:
        colour = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        pixels = np.dstack([colour, _deep(alpha, bit_depth)])
    try:
        encoded = _encode(suffix, pixels, quality, png_level, profile)
    except (cv2.error, OSError, ValueError, KeyError):
        encoded = None
    if encoded is None:
        raise DataError(
            f"cannot be written as '{suffix}'", place=str(path), remedy="use .png, .jpg, .tif, .bmp or .webp"
        )
    write_atomic(path, lambda file: file.write(encoded))


def _encode(suffix: str, pixels: np.ndarray, quality: int | None, level: int, profile: bytes | None) -> bytes | None:
    """The file of `(H, W[, C])` RGB, uint8 or uint16; None where the format is unknown."""
    file = io.BytesIO()
    if suffix in JPEG_EXTENSIONS:  # colour of full resolution: halving it costs more than the quantisation does
        image = Image.fromarray(pixels)
        image.save(file, "JPEG", quality=min(quality or 100, 100), subsampling=0, icc_profile=profile)
    elif suffix == ".webp":
        kind = {"lossless": True, "exact": True} if quality is None else {"quality": min(quality, 100)}
        Image.fromarray(pixels).save(file, "WEBP", icc_profile=profile, **kind)
    elif suffix in (".tif", ".tiff"):
        import tifffile

        kind = {"photometric": "minisblack" if pixels.ndim == 2 else "rgb", "compression": "zlib"}
        extra = {"extrasamples": ["unassalpha"]} if pixels.ndim == 3 and pixels.shape[2] == 4 else {}
        options = {"compressionargs": {"level": level}, "iccprofile": profile, "metadata": None}
        tifffile.imwrite(file, pixels, **kind, **extra, **options)
    else:
        if pixels.ndim == 3:
            code = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
            pixels = cv2.cvtColor(np.ascontiguousarray(pixels), code)
        flags = [cv2.IMWRITE_PNG_COMPRESSION, level] if suffix in (".png", ".apng") else []
        done, encoded = cv2.imencode(".png" if flags else suffix, pixels, flags)
        return _with_profile(encoded.tobytes(), profile) if done else None
    return file.getvalue()


def _with_profile(png: bytes, profile: bytes | None) -> bytes:
    """A PNG file with the profile's chunk behind its header."""
    if profile is None:
        return png
    body = b"iCCPicc\0\0" + zlib.compress(profile)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:33] + chunk + png[33:]


def _in_srgb(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    """8-bit colours of a profile in sRGB; as they are where the profile is damaged."""
    mode = "L" if pixels.ndim == 2 else "RGB"
    with contextlib.suppress(OSError, ImageCms.PyCMSError):
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(Image.fromarray(pixels), source, target, outputMode="RGB")
        return np.asarray(image.convert(mode))
    return pixels


def png_bytes(image: np.ndarray, *, level: int = 1) -> bytes:
    """`(H, W, 3)` RGB as a PNG file: 8 bits for uint8, 16 for floats in [0, 1]."""
    pixels = cv2.cvtColor(np.ascontiguousarray(_deep(image, 8 if image.dtype == np.uint8 else 16)), cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, level])
    assert done
    return encoded.tobytes()


def _deep(image: torch.Tensor | np.ndarray, bit_depth: int) -> np.ndarray:
    if bit_depth == 8:
        return to_uint8(image)
    if isinstance(image, torch.Tensor):
        image = image.detach().float().cpu().reshape(image.shape[-3:]).permute(1, 2, 0).numpy()
    if image.dtype == np.uint8:
        return image.astype(np.uint16) * 257
    return np.rint(np.clip(image.astype(np.float64), 0, 1) * 65535).astype(np.uint16)

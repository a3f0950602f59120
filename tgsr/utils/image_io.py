"""Image files in and out: any of PNG, JPEG, TIFF, BMP, WebP to RGB arrays and back. The only place that knows BGR."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from tgsr.utils.errors import DataError
from tgsr.utils.files import write_atomic
from tgsr.utils.image_header import HeaderError, ImageInfo, missing_end, parse_header

IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
_HEADER_BYTES = 65536
_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_NOT_AN_IMAGE = "cannot be read as an image"
_REDO = "copy or download it again, or remove it"


def is_image_name(name: str) -> bool:
    """Whether the file name ends like an image's and is not hidden."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not os.path.basename(name).startswith(".")


def list_images(folder: Path | str) -> list[Path]:
    """All image files under `folder`, at any depth, sorted by their path inside it.

    Raises:
        DataError: the folder is absent or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.is_file() else "no such folder"
        remedy = "check the path; datasets/README.md tells how to get the data"
        raise DataError(problem, place=str(folder), remedy=remedy)
    names = sorted(_walk(str(folder), ""))
    if not names:
        raise DataError(
            "the folder holds no images", place=str(folder), remedy=f"expected {', '.join(sorted(IMAGE_EXTENSIONS))}"
        )
    return [folder / n for n in names]


def _walk(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, prefix + entry.name + "/")
            elif is_image_name(entry.name):
                yield prefix + entry.name


def probe_image(path: Path | str) -> ImageInfo:
    """Size and kind of an image from its header, without decoding (about 0.05 ms).

    Raises:
        DataError: absent, empty, or not an image.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER_BYTES)
            try:
                info = parse_header(head)
            except HeaderError:
                info = parse_header(head + file.read())
    except OSError as error:
        raise DataError(f"cannot be opened: {error.strerror or error}", place=str(path)) from None
    except HeaderError as error:
        raise DataError(f"{_NOT_AN_IMAGE}: {error}", place=str(path), remedy=_REDO) from None
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
        the orientation of a JPEG applied.

    Raises:
        DataError: absent, unreadable or truncated.
    """
    return decode_image(_read_bytes(path), place=str(path))[0]


def read_image_alpha(path: Path | str) -> tuple[np.ndarray, np.ndarray | None]:
    """Like `read_image`, with the alpha channel `(H, W)` of the same type, or None where there is none."""
    return decode_image(_read_bytes(path), place=str(path), keep_alpha=True)


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
        info = parse_header(data)
    except HeaderError as error:
        raise DataError(f"{_NOT_AN_IMAGE}: {error}", place=place, remedy=_REDO) from None
    if missing_end(data, info):
        raise DataError("the image is truncated: its end is missing", place=place, remedy=_REDO)
    with_alpha = keep_alpha and info is not None and info.has_alpha
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED if with_alpha else _COLOUR)
    except cv2.error as error:
        raise DataError(f"{_NOT_AN_IMAGE}: {error.err or error}", place=place, remedy=_REDO) from None
    if image is None:
        raise DataError(_NOT_AN_IMAGE, place=place, remedy=_REDO)
    alpha = None
    if with_alpha and image.ndim == 3 and image.shape[2] in (2, 4):
        alpha = _normalise(np.ascontiguousarray(image[..., -1]))
        image = image[..., :-1]
    if image.ndim == 2 or image.shape[2] == 1:
        image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2BGR)
    image = _normalise(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2RGB))
    return (_orient(image, info.orientation) if info else image), alpha


def _read_bytes(path: Path | str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise DataError("no such file", place=str(path)) from None
    except OSError as error:
        raise DataError(f"cannot be opened: {error.strerror or error}", place=str(path)) from None


def _normalise(image: np.ndarray) -> np.ndarray:
    """uint8 stays; deeper integers become float32 in [0, 1]; floats are taken to be in [0, 1]."""
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind == "f":
        return np.clip(np.nan_to_num(image.astype(np.float32)), 0, 1)
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def _orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image upright; `orientation` is EXIF's 1 to 8."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
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
    jpeg_quality: int = 95,
    png_level: int = 1,
) -> None:
    """Write an image file, whole or not at all; the extension says the format.

    Args:
        path: where; folders are made.
        image: RGB, `(3, H, W)` tensor in [0, 1] or `(H, W, 3)` / `(H, W)` array, uint8 or float in [0, 1].
        alpha: `(H, W)` uint8 or float in [0, 1] to store beside the colours (PNG, TIFF, WebP).
        bit_depth: 8, or 16 for PNG and TIFF.
        jpeg_quality: 1 to 100, for JPEG and WebP.
        png_level: zlib level of PNG; 1 is fast and about 10 % larger than the default 6.

    Raises:
        DataError: unknown extension.
        UserError: the disk is full or the folder cannot be written.
    """
    pixels = _deep(image, bit_depth)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    if alpha is not None:
        colour = pixels if pixels.ndim == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
        pixels = np.dstack([colour, _deep(alpha, bit_depth)])
    flags = [
        *(cv2.IMWRITE_PNG_COMPRESSION, png_level),
        *(cv2.IMWRITE_JPEG_QUALITY, jpeg_quality),
        *(cv2.IMWRITE_WEBP_QUALITY, jpeg_quality),
    ]
    suffix = Path(path).suffix.lower()
    used = {".png": flags[:2], ".jpg": flags[2:4], ".jpeg": flags[2:4], ".webp": flags[4:]}.get(suffix, [])
    try:
        done, encoded = cv2.imencode(suffix, pixels, used)
    except cv2.error:
        done = False
    if not done:
        raise DataError(
            f"cannot be written as '{suffix}'", place=str(path), remedy="use .png, .jpg, .tif, .bmp or .webp"
        )
    write_atomic(path, lambda file: file.write(encoded.tobytes()))


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

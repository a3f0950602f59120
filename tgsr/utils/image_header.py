"""What the first bytes of an image file tell: size, channels, depth, orientation; and whether its end is there."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB\x60\x82"
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})


@dataclass(frozen=True)
class ImageInfo:
    """Header of an image file.

    Attributes:
        height, width: pixels, after the orientation tag of a JPEG has been applied.
        channels: colour channels in the file, 1 or 3, without alpha.
        bit_depth: bits per channel in the file (palettes count as 8).
        has_alpha: an alpha channel or a transparent palette.
        format: `png`, `jpeg`, `bmp`, `webp` or `tiff`.
        orientation: EXIF orientation 1 to 8 of a JPEG, else 1.
    """

    height: int
    width: int
    channels: int
    bit_depth: int
    has_alpha: bool
    format: str
    orientation: int = 1


class HeaderError(ValueError):
    """The bytes begin like a known format but end too early or contradict it."""


def parse_header(data: bytes) -> ImageInfo | None:
    """Header of the image that begins with `data`; None for formats that are not known here.

    Raises:
        HeaderError: `data` ends before the header does (read more, or the file is cut).
    """
    for is_format, parse in _PARSERS:
        if is_format(data):
            try:
                return parse(data)
            except (struct.error, IndexError):
                raise HeaderError("the header is cut") from None
    return None


def missing_end(data: bytes, info: ImageInfo | None) -> bool:
    """Whether a whole file's bytes lack their end, as after an interrupted copy."""
    if info is None or info.format == "tiff":
        return False  # the decoder itself refuses a cut TIFF
    if info.format == "png":
        return data.rfind(_PNG_END) < 0
    if info.format == "jpeg":
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    if info.format == "webp":
        return len(data) < struct.unpack_from("<I", data, 4)[0] + 8
    return len(data) < _bmp_bytes(data)


def _parse_png(data: bytes) -> ImageInfo:
    width, height, depth, kind = struct.unpack_from(">IIBB", data, 16)
    alpha = kind in (4, 6)
    position = 33
    while not alpha and position + 8 <= len(data):  # a transparent colour or palette stands before the pixels
        length, chunk = struct.unpack_from(">I4s", data, position)
        if chunk in (b"IDAT", b"IEND"):
            break
        alpha = chunk == b"tRNS"
        position += 12 + length
    return ImageInfo(height, width, 3 if kind & 2 else 1, max(depth, 8), alpha, "png")


def _parse_jpeg(data: bytes) -> ImageInfo:
    position, orientation = 2, 1
    while True:
        if data[position] != 0xFF:
            raise HeaderError("a JPEG marker is missing")
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        length = struct.unpack_from(">H", data, position + 2)[0]
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[position + 10 : position + 2 + length])
        if marker in _JPEG_FRAMES:
            depth, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
            if orientation >= 5:
                height, width = width, height
            return ImageInfo(height, width, 1 if channels == 1 else 3, depth, False, "jpeg", orientation)
        position += 2 + length


def _exif_orientation(tiff: bytes) -> int:
    try:
        value = _tiff_tags(tiff).get(274, 1)
    except (struct.error, IndexError, HeaderError):
        return 1
    return value if 1 <= value <= 8 else 1


def _parse_bmp(data: bytes) -> ImageInfo:
    width, height = struct.unpack_from("<ii", data, 18)
    bits = struct.unpack_from("<H", data, 28)[0]
    return ImageInfo(abs(height), abs(width), 3, 8, bits == 32, "bmp")


def _bmp_bytes(data: bytes) -> int:
    start = struct.unpack_from("<I", data, 10)[0]
    width, height = struct.unpack_from("<ii", data, 18)
    bits, packing = struct.unpack_from("<HI", data, 28)
    row = (abs(width) * bits + 31) // 32 * 4
    return start + (row * abs(height) if packing in (0, 3) else 0)


def _parse_webp(data: bytes) -> ImageInfo:
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        return ImageInfo(height, width, 3, 8, bool(data[20] & 0x10), "webp")
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return ImageInfo((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, 3, 8, bool(bits >> 28 & 1), "webp")
    width, height = struct.unpack_from("<HH", data, 26)
    return ImageInfo(height & 0x3FFF, width & 0x3FFF, 3, 8, False, "webp")


def _parse_tiff(data: bytes) -> ImageInfo:
    tags = _tiff_tags(data)
    samples = tags.get(277, 1)
    if 256 not in tags or 257 not in tags:
        raise HeaderError("the TIFF directory lacks the size")
    colours = 3 if tags.get(262, 1) in (2, 3, 5, 6) else 1
    return ImageInfo(tags[257], tags[256], colours, max(8, tags.get(258, 8)), samples > colours, "tiff")


def _tiff_tags(data: bytes) -> dict[int, int]:
    """First value of every integer tag in the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    version, offset = struct.unpack_from(order + "HI", data, 2)
    if version != 42:
        raise HeaderError("not a classic TIFF")
    tags = {}
    for entry in range(struct.unpack_from(order + "H", data, offset)[0]):
        at = offset + 2 + 12 * entry
        tag, kind, count = struct.unpack_from(order + "HHI", data, at)
        if kind not in (1, 3, 4):
            continue
        size = {1: 1, 3: 2, 4: 4}[kind]
        place = at + 8 if size * count <= 4 else struct.unpack_from(order + "I", data, at + 8)[0]
        tags[tag] = struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], data, place)[0]
    return tags


_PARSERS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], ImageInfo]], ...] = (
    (lambda d: d.startswith(_PNG_MAGIC), _parse_png),
    (lambda d: d.startswith(b"\xff\xd8\xff"), _parse_jpeg),
    (lambda d: d.startswith(b"RIFF") and d[8:12] == b"WEBP", _parse_webp),
    (lambda d: d.startswith((b"II*\0", b"MM\0*")), _parse_tiff),
    (lambda d: d.startswith(b"BM"), _parse_bmp),
)

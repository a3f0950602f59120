"""What an image file says of itself before it is decoded: size, kind, frames, orientation, colour profile, its end.

PNG chunks are walked here; Pillow reads the headers of JPEG, WebP and BMP, tifffile those of TIFF.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.WebPImagePlugin import WebPImageFile

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit, which differs between its readers; ours is `check_pixels`
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 274
_MOST_PIXELS_A_BYTE = 512
"""Of a JPEG: each 8x8 block of at least one component takes at least one bit."""
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_AFTER_A_SCAN = frozenset({0xC4, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE})
"""Markers of tables, of the next scan, of comments and of the end."""
_OTHERS = (
    (b"GIF8", "GIF"), (b"\0\0\0\x0cJXL ", "JPEG XL"), (b"\xff\x0a", "JPEG XL"), (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"), (b"8BPS", "Photoshop"), (b"v/1\x01", "OpenEXR"), (b"#?RADIANCE", "HDR"),
    (b"\0\0\x01\0", "icon"), (b"FUJIFILMCCD-RAW", "raw camera"), (b"IIRO", "raw camera"), (b"IIU\0", "raw camera"),
)  # fmt: skip
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"avif": "AVIF", b"avis": "AVIF",
           b"crx ": "raw camera"}  # fmt: skip


@dataclass(frozen=True)
class ImageInfo:
    """Header of an image file.

    Attributes:
        height, width: pixels, after the orientation tag has been applied.
        channels: colour channels in the file, 1 or 3, without alpha.
        bit_depth: bits per channel in the file (palettes count as 8).
        has_alpha: an alpha channel or a transparent palette.
        format: `png`, `jpeg`, `bmp`, `webp` or `tiff`.
        orientation: of EXIF or TIFF, 1 to 8.
        num_frames: of an animation, or pages.
        is_lossless: the pixels were stored as they were.
        profile: ICC colour profile, where there is one.
        data_start: where the pixels of a JPEG begin.
    """

    height: int
    width: int
    channels: int
    bit_depth: int
    has_alpha: bool
    format: str
    orientation: int = 1
    num_frames: int = 1
    is_lossless: bool = True
    profile: bytes | None = field(default=None, repr=False)
    data_start: int = 0


class ImageError(ValueError):
    """The bytes are no image that can be used; the text says why, `remedy` what helps."""

    def __init__(self, problem: str, *, remedy: str = "") -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(problem)


def parse_header(file: BinaryIO) -> ImageInfo | None:
    """Header of an image file; None for formats that are not known here.

    Args:
        file: at its beginning; moved.

    Raises:
        ImageError: the header is cut or contradicts itself, or the format cannot be read at all.
    """
    head = file.read(16)
    file.seek(0)
    for is_format, parse in _PARSERS:
        if is_format(head):
            try:
                return parse(file)
            except ImageError:
                raise
            except Exception as error:  # a library's parser meets arbitrary bytes with nearly anything
                raise ImageError(f"the header is cut or damaged ({' '.join(str(error).split())[:80]})") from None
    if other := foreign_format(head):
        raise ImageError(f"{other} files are not read", remedy="convert it to PNG, JPEG, TIFF or WebP")
    return None


def foreign_format(head: bytes) -> str:
    """Name of an image format that is not read here, by a file's first 16 bytes; empty for all else."""
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS:
        return _BRANDS[head[8:12]]
    return next((name for magic, name in _OTHERS if head.startswith(magic)), "")


def is_known_format(head: bytes) -> bool:
    """Whether a file with these first 16 bytes has a format that is read here."""
    return any(is_format(head) for is_format, _ in _PARSERS)


def missing_end(data: bytes, info: ImageInfo | None) -> bool:
    """Whether a whole file's bytes lack their end, as after an interrupted copy; bytes behind the end do not matter."""
    if info is None or info.format == "tiff":
        return False  # the decoder itself refuses a cut TIFF
    if info.format == "png":  # decoders trust a chunk's length and fetch as much memory
        return not any(kind == b"IEND" and at <= len(data) for kind, _, at in _chunks(io.BytesIO(data)))
    if info.format == "jpeg":  # in a scan 0xff is followed by 0 or a restart marker, so this is the picture's own end
        return data.find(b"\xff\xd9", info.data_start) < 0
    if info.format == "webp":
        return len(data) < struct.unpack_from("<I", data, 4)[0] + 8
    return len(data) < _bmp_bytes(data)


def broken_scan(data: bytes, info: ImageInfo | None) -> str:
    """What is wrong with the scans of a JPEG, in words, where decoders paint the rest grey unheard. Else empty."""
    if info is None or info.format != "jpeg":
        return ""
    if info.height * info.width > _MOST_PIXELS_A_BYTE * len(data):
        return f"the image is damaged ({len(data)} bytes cannot hold {info.width}x{info.height} pixels)"
    found = _MARKER.search(data, info.data_start + 2)
    if found is None or found[0][1] in _AFTER_A_SCAN:
        return ""
    return f"the image is damaged (marker 0x{found[0][1]:02x} within its pixels)"


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind and length of each chunk of a PNG, with where the next one begins; `file` is at its content."""
    position = 8
    file.seek(position)
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        position += 12 + length
        yield kind, length, position
        if kind == b"IEND":
            return
        file.seek(position)


def _parse_png(file: BinaryIO) -> ImageInfo:
    head, chunks = b"", {}
    for kind, length, _ in _chunks(file):
        if kind == b"IHDR":
            head = file.read(length)
        elif kind in (b"tRNS", b"acTL", b"iCCP", b"eXIf") and length < 1 << 26:
            chunks[kind] = file.read(length)
    width, height, depth, kind = struct.unpack_from(">IIBB", head)
    profile = None
    if b"iCCP" in chunks:
        _, _, packed = chunks[b"iCCP"].partition(b"\0")
        profile = zlib.decompressobj().decompress(packed[1:], 1 << 26)
    frames = struct.unpack_from(">I", chunks[b"acTL"])[0] if b"acTL" in chunks else 1
    return _upright(
        height, width, exif=chunks.get(b"eXIf"), channels=3 if kind & 2 else 1, bit_depth=max(depth, 8),
        has_alpha=kind in (4, 6) or b"tRNS" in chunks, format="png", num_frames=max(1, frames), profile=profile,
    )  # fmt: skip


def _parse_jpeg(file: BinaryIO) -> ImageInfo:
    image = JpegImageFile(file)
    return _of_pillow(image, "jpeg", is_lossless=False, data_start=file.tell())


def _parse_webp(file: BinaryIO) -> ImageInfo:
    head = file.read(1 << 16)
    file.seek(0)
    kind = head[12:16]
    is_lossless = kind == b"VP8L" or (kind == b"VP8X" and b"VP8L" in head and b"VP8 " not in head)
    return _of_pillow(WebPImageFile(file), "webp", is_lossless=is_lossless)


def _parse_bmp(file: BinaryIO) -> ImageInfo:
    return _of_pillow(BmpImageFile(file), "bmp")


def _parse_tiff(file: BinaryIO) -> ImageInfo:
    from tgsr.utils.tiff import Layout, first_page

    with first_page(file) as page:
        layout = Layout.of(page)
        height, width, frames = page.imagelength, page.imagewidth, layout.num_pages
    return _upright(
        height, width, orientation=layout.orientation, channels=layout.channels, bit_depth=max(8, layout.bits),
        has_alpha=layout.alpha is not None, format="tiff", num_frames=frames, is_lossless=layout.is_lossless,
        profile=layout.profile,
    )  # fmt: skip


def _of_pillow(image: Image.Image, name: str, **more: object) -> ImageInfo:
    mode = image.mode
    return _upright(
        image.height, image.width, exif=image.info.get("exif"), channels=1 if mode in ("1", "L", "LA") else 3,
        bit_depth=8, has_alpha=mode in ("LA", "RGBA") or "transparency" in image.info, format=name,
        num_frames=getattr(image, "n_frames", 1), profile=image.info.get("icc_profile") or None, **more,
    )  # fmt: skip


def _upright(
    height: int, width: int, *, exif: bytes | None = None, orientation: int | None = None, **more: object
) -> ImageInfo:
    orientation = _exif_orientation(exif) if orientation is None else orientation
    orientation = orientation if orientation in range(1, 9) else 1
    if orientation >= 5:
        height, width = width, height
    return ImageInfo(height, width, orientation=orientation, **more)  # type: ignore[arg-type]


def _exif_orientation(exif: bytes | None) -> int:
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(exif)
        return int(tags.get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF is no reason to refuse the picture
        return 1


def _bmp_bytes(data: bytes) -> int:
    start = struct.unpack_from("<I", data, 10)[0]
    width, height = struct.unpack_from("<ii", data, 18)
    bits, packing = struct.unpack_from("<HI", data, 28)
    row = (abs(width) * bits + 31) // 32 * 4
    return start + (row * abs(height) if packing in (0, 3) else 0)


_PARSERS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO], ImageInfo]], ...] = (
    (lambda d: d.startswith(_PNG_MAGIC), _parse_png),
    (lambda d: d.startswith(b"\xff\xd8\xff"), _parse_jpeg),
    (lambda d: d.startswith(b"RIFF") and d[8:12] == b"WEBP", _parse_webp),
    (lambda d: d.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")), _parse_tiff),
    (lambda d: d.startswith(b"BM"), _parse_bmp),
)


def parse_bytes(data: bytes) -> ImageInfo | None:
    """`parse_header` of a file in memory."""
    return parse_header(io.BytesIO(data))

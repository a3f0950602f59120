"""TIFF files: what their tags mean, told by this file and not left to a decoder; anything else is refused in words.

Libraries disagree about TIFFs: OpenCV multiplies 8-bit colours by their alpha, mixes separate planes of 16 bits and
does not invert deep negatives; Pillow drops the lower half of 16-bit colours. So samples of up to 8 bits are read by
Pillow and deeper ones by tifffile, and OpenCV is asked only for compressed ones that it is known to read right.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import cv2
import numpy as np

from tgsr.utils.image_header import ImageError

_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
"""Photometric interpretation -> samples of colour: white is 0, black is 0, RGB, palette, CMYK, YCbCr, Lab."""
_UNSIGNED, _FLOAT = 1, 3
_ASSOCIATED, _STRAIGHT = 1, 2
_ORIENTATION, _PROFILE = 274, 34675
_LOSSY = (6, 7, 34892, 34927, 50001, 50002)
_REMEDY = "save it as RGB of 8 or 16 bits"


@dataclass(frozen=True)
class Layout:
    """What the tags of a page say.

    Attributes:
        photometric: TIFF's number.
        channels: colour channels of the picture, 1 or 3.
        colours: samples of a pixel that hold them.
        samples: all samples of a pixel.
        alpha: kind of the sample behind the colours, 1 (multiplied into them) or 2 (straight); None: no alpha.
        bits: of a sample.
        sample_format: TIFF's number: 1 unsigned, 2 signed, 3 float.
        is_planar: each sample in a plane of its own.
        is_lossless: not compressed as JPEG or the like.
        orientation: 1 to 8.
        orientation_at: where its two bytes lie in the file.
        num_pages: of the file.
        profile: ICC profile.
    """

    photometric: int
    channels: int
    colours: int
    samples: int
    alpha: int | None
    bits: int
    sample_format: int
    is_planar: bool
    is_lossless: bool
    orientation: int
    orientation_at: int | None
    num_pages: int
    profile: bytes | None

    @staticmethod
    def of(page: Any) -> Layout:
        """Of a tifffile page; ImageError when its samples are no picture of colours."""
        photometric, samples = int(page.photometric), page.samplesperpixel
        colours = _COLOURS.get(photometric)
        name = getattr(page.photometric, "name", photometric)
        if colours is None or samples < colours:
            raise ImageError(f"a TIFF of kind {name} with {samples} samples a pixel is not read", remedy=_REMEDY)
        extra = tuple(map(int, page.extrasamples))
        alpha = extra[0] if samples > colours and extra and extra[0] in (_ASSOCIATED, _STRAIGHT) else None
        if samples > colours == 1 and alpha is None:
            problem = f"a TIFF with {samples} samples a pixel, of which no tag says which are red, green and blue"
            raise ImageError(problem, remedy=_REMEDY)
        orientation, profile = page.tags.get(_ORIENTATION), page.tags.get(_PROFILE)
        return Layout(
            photometric, 1 if photometric in (0, 1) else 3, colours, samples, alpha, page.bitspersample,
            int(page.sampleformat), int(page.planarconfig) == 2 and samples > 1, int(page.compression) not in _LOSSY,
            int(orientation.value) if orientation else 1, orientation.valueoffset if orientation else None,
            len(page.parent.pages), None if profile is None else bytes(profile.value),
        )  # fmt: skip


@contextmanager
def first_page(file: BinaryIO) -> Iterator[Any]:
    """tifffile's first page of a file."""
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        if not len(tiff.pages) or not tiff.pages[0].imagewidth:
            raise ImageError("the TIFF directory lacks the size")
        yield tiff.pages[0]


def read_tiff(data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours `(H, W, 1 or 3)` as stored, with straight alpha `(H, W)` or None; not yet turned upright.

    Raises:
        ImageError: damaged, or samples that are no colours.
    """
    with first_page(io.BytesIO(data)) as page:
        layout = Layout.of(page)
        if layout.orientation != 1 and layout.orientation_at is not None:  # else some decoders turn it, and some do not
            data = _with_upright_tag(data, layout, page.parent.byteorder)
        if layout.sample_format == _UNSIGNED and layout.bits <= 8:
            return _by_pillow(data)
        if layout.photometric not in (0, 1, 2):
            problem = f"a TIFF of kind {page.photometric.name} with {layout.bits} bits is not read"
            raise ImageError(problem, remedy=_REMEDY)
        if layout.sample_format not in (_UNSIGNED, _FLOAT):
            kind = {2: "signed", 5: "complex", 6: "complex"}.get(layout.sample_format, "untyped")
            raise ImageError(f"a TIFF of {kind} samples holds no colours", remedy=_REMEDY)
        samples = _deep_samples(page, data, layout)
    if layout.photometric == 0:
        samples = 1 - samples if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max - samples
    colours = samples[..., : layout.colours]
    if layout.alpha is None:
        return colours, None
    alpha = samples[..., layout.colours]
    return (_divided(colours, alpha) if layout.alpha == _ASSOCIATED else colours), alpha


def _with_upright_tag(data: bytes, layout: Layout, byteorder: str) -> bytes:
    changed, at = bytearray(data), layout.orientation_at or 0
    changed[at : at + 2] = (1).to_bytes(2, "little" if byteorder == "<" else "big")
    return bytes(changed)


def _by_pillow(data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    from PIL import ImageCms
    from PIL.TiffImagePlugin import TiffImageFile

    try:
        image = TiffImageFile(io.BytesIO(data))
        image.load()
    except Exception as error:
        raise ImageError(f"{' '.join(str(error).split())[:100] or type(error).__name__}") from None
    if image.mode == "LAB":
        lab, target = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return np.asarray(ImageCms.profileToProfile(image, lab, target, outputMode="RGB")), None
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        straight = np.asarray(image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA"))
        return straight[..., :3], straight[..., 3]
    return np.asarray(image.convert("RGB")), None


def _deep_samples(page: Any, data: bytes, layout: Layout) -> np.ndarray:
    """`(H, W, samples)` of more than 8 bits."""
    try:
        samples = page.asarray()
        if layout.is_planar:
            samples = np.moveaxis(samples, 0, -1)
        return samples.reshape(page.imagelength, page.imagewidth, layout.samples)
    except Exception as error:
        if "imagecodecs" not in str(error):
            raise ImageError(f"{' '.join(str(error).split())[:100] or type(error).__name__}") from None
    return _by_opencv(page, data, layout)


def _by_opencv(page: Any, data: bytes, layout: Layout) -> np.ndarray:
    """Compressed samples that tifffile alone cannot unpack, where OpenCV is known to be right."""
    image = None
    if not layout.is_planar and layout.samples in (1, 3, 4) and layout.bits in (16, 32, 64):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    expected = (page.imagelength, page.imagewidth, layout.samples)
    if image is None or image.reshape(*image.shape[:2], -1).shape != expected or image.itemsize * 8 != layout.bits:
        kind = f"{layout.samples} samples of {layout.bits} bits"
        raise ImageError(
            f"a TIFF of {kind} compressed as {page.compression.name} is not read",
            remedy="save it without compression, or pip install imagecodecs",
        )
    image = image.reshape(expected)
    return image if layout.samples == 1 else image[..., [2, 1, 0, *range(3, layout.samples)]]


def _divided(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Straight colours of those that were multiplied by alpha."""
    top = 1.0 if alpha.dtype.kind == "f" else float(np.iinfo(alpha.dtype).max)
    share = np.where(alpha > 0, alpha, 1)[..., None].astype(np.float64) / top
    straight = np.clip(colours / share, 0, top)
    return straight.astype(colours.dtype) if alpha.dtype.kind == "f" else np.rint(straight).astype(colours.dtype)

"""Opening slides; where that fails, what is wrong with the file and what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

import openslide
import tifffile
from openslide import OpenSlide

from data_utils.slides.dicom import dicom_files

# Faults and remedies that several checks name.
NOT_THERE = "does not exist (any more); put it back, or remove what refers to it"
NOT_ALLOWED = (
    "may not be read (permission denied); ask its owner for the right to read it (chmod +r, folders +x)"
)
CONVERT = (
    "convert it to a tiled TIFF, such as with: vips tiffsave FILE OUT.tif --tile --pyramid --bigtiff "
    "--compression jpeg"
)
_DOWNLOAD = "download or copy it again"

# The largest scans have some 300,000 pixels a side, the largest tiles of files 4,096: what declares more is damaged,
# and reading it would exhaust memory or time.
MAX_SIDE = 4_000_000
MAX_PIXELS = 4e11
MAX_TILE_PIXELS = 2**28

# How files begin that are something else than their name says.
_KINDS = {
    b"\x89PNG\r\n\x1a\n": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\0\0\0\x0cjP  \r\n": "a JPEG 2000 image",
    b"\xffO\xffQ": "a JPEG 2000 image",
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"RIFF": "a WebP image",
}
_PACKED = {b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z"}
# The file of these slides that is opened names others, or has its data in a folder; it begins so.
_OF_SEVERAL_FILES = {".mrxs": b"\xff\xd8\xff", ".vms": b"[Virtual", ".vmu": b"[Uncompressed Virtual"}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class SlideError(RuntimeError):
    """A slide that cannot be used; the message says why."""


def open_slide(path: str | Path) -> OpenSlide:
    """Opens a slide, of a folder the DICOM slide in it.

    Raises:
        SlideError: OpenSlide cannot read the file, or it declares sizes that no slide has.
    """
    path = Path(path)
    try:
        slide = OpenSlide(dicom_files(path)[0] if path.is_dir() else path)
    except (openslide.OpenSlideError, OSError, IndexError) as error:
        raise SlideError(f"cannot be opened: {why_unreadable(path, error)}") from error
    try:
        check_declared_sizes(slide)
    except SlideError:
        slide.close()
        raise
    return slide


def check_declared_sizes(slide: OpenSlide) -> None:
    """Refuses a slide that declares more pixels than any has.

    Raises:
        SlideError: a level or the tiles of one.
    """
    for level, (width, height) in enumerate(slide.level_dimensions):
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise SlideError(f"declares {width:,} x {height:,} pixels at level {level}: damaged; {_DOWNLOAD}")
        sides = [
            int(slide.properties.get(f"openslide.level[{level}].tile-{side}", 0))
            for side in ("width", "height")
        ]
        if sides[0] * sides[1] > MAX_TILE_PIXELS:
            raise SlideError(
                f"declares tiles of {sides[0]:,} x {sides[1]:,} pixels at level {level}: damaged; {_DOWNLOAD}"
            )


def mirax_folder(path: Path) -> Path:
    """The folder of data that belongs to a ``.mrxs`` file."""
    return path.with_suffix("")


def why_unreadable(path: Path, error: Exception) -> str:
    """What is wrong with a file that could not be opened or read, and what to do.

    Args:
        path: the file or folder.
        error: what the reader said.
    """
    said = " ".join(str(error).split())[:200] or type(error).__name__
    try:
        if path.is_dir():
            return f"none of its DICOM files is that of a slide ({said}); {_DOWNLOAD}"
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(512)
    except FileNotFoundError:
        return f"it {NOT_THERE}"
    except PermissionError:
        return f"it {NOT_ALLOWED}"
    except OSError as problem:
        return f"{problem.strerror or problem}; see whether its disk is at hand, then start again"
    if not begin:
        return f"the file is empty; {_DOWNLOAD}"
    suffix = path.suffix.lower()
    if suffix == ".mrxs" and not (mirax_folder(path) / "Slidedat.ini").is_file():
        return f"the folder {mirax_folder(path).name} with Slidedat.ini is not beside it; copy it there"
    if suffix in _OF_SEVERAL_FILES and begin.startswith(_OF_SEVERAL_FILES[suffix]):
        return f"a file of the slide is missing or damaged ({said}); copy all of its files again"
    for magic, kind in _KINDS.items():
        if begin.startswith(magic):
            return f"it is {kind}, whatever its name says; {CONVERT}"
    for magic, kind in _PACKED.items():
        if begin.startswith(magic):
            return f"it is packed ({kind}); unpack it"
    if begin.startswith(_TIFF):
        return _why_no_tiff(path, size, said)
    if begin.lstrip()[:1] in (b"<", b"{") or (begin.isascii() and begin.decode().isprintable()):
        return f"it holds text and no image, perhaps the error page of a server; {_DOWNLOAD}"
    return f"damaged, or of a kind that OpenSlide does not read ({said}); {_DOWNLOAD}, or {CONVERT}"


def _why_no_tiff(path: Path, size: int, said: str) -> str:
    """Of a TIFF: cut off, of an unsupported kind, or damaged."""
    try:
        with tifffile.TiffFile(path) as file:
            pages = list(file.pages)
            ends = [
                offset + count
                for page in pages
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            ]
            tiled, compression = pages[0].is_tiled, pages[0].compression.name
    except Exception as error:  # damage ends in almost anything
        return f"damaged or cut off ({said}; {type(error).__name__} in its directory); {_DOWNLOAD}"
    if ends and max(ends) > size:
        return f"cut off: it has {size:,} of at least {max(ends):,} bytes; {_DOWNLOAD}"
    if not tiled:
        return f"it is a TIFF in strips, and OpenSlide reads tiled ones only; {CONVERT}"
    if "Unsupported" in said or "compression" in said.lower():
        return f"OpenSlide does not read this kind of TIFF ({compression}: {said}); {CONVERT}"
    return f"damaged ({said}); {_DOWNLOAD}"


def describe(error: Exception, path: Path) -> str:
    """An error of a slide as one line of the report."""
    if isinstance(error, SlideError):
        text = str(error)
    elif isinstance(error, openslide.OpenSlideError):
        text = f"{type(error).__name__}: {why_unreadable(path, error)}"
    else:
        text = f"{type(error).__name__}: {error}"
    return " ".join(os.fsencode(text).decode("utf-8", errors="backslashreplace").split())

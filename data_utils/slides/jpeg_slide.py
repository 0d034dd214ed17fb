"""Slides whose levels are JPEG tiles of a TIFF file (Aperio, plain tiled TIFF), read at twice the speed.

OpenSlide draws every JPEG tile onto a transparent canvas, which takes longer than to decode it. Here the tiles of a
region are decoded and copied side by side. OpenSlide stays the reference: a level is read this way only where samples
of it have the same pixels, and whatever is out of the ordinary (the border of the slide, tiles without data or with a
flaw, positions between two pixels) is left to OpenSlide.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile
from openslide import PROPERTY_NAME_VENDOR, OpenSlide, OpenSlideError

from data_utils.slides.opening import open_slide

logger = logging.getLogger(__name__)

OPENSLIDE, DIRECT = "OpenSlide", "JPEG tiles"
# The layouts in which a level is one picture cut into tiles; others overlap, or are stitched by OpenSlide.
_VENDORS = ("aperio", "generic-tiff")
_JPEG = 7  # of the tag Compression; 6 is the withdrawn kind
_RGB, _YCBCR = 2, 6  # of the tag PhotometricInterpretation
# Decoded tiles that are kept: neighbouring regions share them.
_CACHE_BYTES = 64 * 2**20
# Side of the samples of a level that are compared with OpenSlide's, in pixels, and how many a side.
_SAMPLE, _SAMPLES = 300, 3
# Marker of a JPEG stream that says whether its colours are RGB (0) or YCbCr (1); without it decoders guess.
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"


@dataclass(frozen=True)
class JpegLevel:
    """A level made of JPEG tiles.

    Attributes:
        size: of the level ``(width, height)``, pixels.
        tile: of a tile ``(width, height)``, pixels.
        offsets: where every tile begins in the file, row by row.
        lengths: bytes of every tile; 0 where there is none.
        head: what comes before the data of each tile: start, colours, and the tables that tiles share.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    head: bytes

    @property
    def columns(self) -> int:
        return -(-self.size[0] // self.tile[0])


class JpegSlide(OpenSlide):
    """A slide some of whose levels can be read directly.

    Args:
        path: of the slide.
        levels: which levels can be read directly.
    """

    def __init__(self, path: Path, levels: dict[int, JpegLevel]) -> None:
        super().__init__(path)
        self.levels = levels
        self._file = os.open(path, os.O_RDONLY)
        self._tiles: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._bytes = 0

    @cached_property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """As OpenSlide's, which asks its library for every level at every use: ten times a tile."""
        return super().level_dimensions

    @cached_property
    def level_downsamples(self) -> tuple[float, ...]:
        """As OpenSlide's; see :attr:`level_dimensions`."""
        return super().level_downsamples

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)
        super().close()

    def same_pixels(self, level: int) -> bool:
        """Whether samples over a whole level have the pixels that OpenSlide gives.

        Raises:
            OpenSlideError: the slide is damaged there; it cannot be read any more.
        """
        sizes = self.levels[level].size
        side = [min(_SAMPLE, total) for total in sizes]
        read = 0
        for shares in itertools.product(np.linspace(0, 1, _SAMPLES), repeat=2):
            place = (share * (total - part) for share, total, part in zip(shares, sizes, side, strict=True))
            x, y = (round(round(edge) * self.level_downsamples[level]) for edge in place)
            found = self.decode((x, y), level, (side[0], side[1]))
            if found is None:
                continue
            read += 1
            expected = np.asarray(super().read_region((x, y), level, (side[0], side[1])))
            if (expected[..., 3] != 255).any() or not np.array_equal(found, expected[..., :3]):
                return False
        return read > 0

    def decode(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray | None:
        """Pixels ``[H, W, 3]`` of a region, or ``None`` where OpenSlide has to read it."""
        if (found := self.levels.get(level)) is None:
            return None
        corner = [edge / self.level_downsamples[level] for edge in location]
        left, top = (round(edge) for edge in corner)
        right, bottom = left + size[0], top + size[1]
        inside = left >= 0 and top >= 0 and right <= found.size[0] and bottom <= found.size[1]
        if not inside or corner != [left, top]:
            return None
        width, height = found.tile
        region = np.empty((size[1], size[0], 3), np.uint8)
        for row in range(top // height, -(-bottom // height)):
            for column in range(left // width, -(-right // width)):
                tile = self._tile(level, found, row * found.columns + column)
                if tile is None:
                    return None
                x, y = column * width, row * height
                x0, y0, x1, y1 = max(left, x), max(top, y), min(right, x + width), min(bottom, y + height)
                region[y0 - top : y1 - top, x0 - left : x1 - left] = tile[y0 - y : y1 - y, x0 - x : x1 - x]
        return region

    def _tile(self, level: int, found: JpegLevel, number: int) -> np.ndarray | None:
        """A tile ``[H, W, 3]``; ``None`` where it has no data, or the decoder so much as warns."""
        key = (level, number)
        if (tile := self._tiles.get(key)) is not None:
            self._tiles.move_to_end(key)
            return tile
        length = found.lengths[number]
        data = os.pread(self._file, length, found.offsets[number])
        if len(data) < length or not data.startswith(_SOI):
            return None
        try:
            tile = simplejpeg.decode_jpeg(found.head + data[len(_SOI) :], "RGB", strict=True)
        except ValueError as error:
            logger.debug("tile %d of level %d: %s", number, level, error)
            return None
        if tile.shape[1::-1] != found.tile:
            return None
        self._tiles[key] = tile
        self._bytes += tile.nbytes
        while self._bytes > _CACHE_BYTES:
            self._bytes -= self._tiles.popitem(last=False)[1].nbytes
        return tile


def fastest(path: Path) -> OpenSlide:
    """Opens a slide; what can be is read directly: levels of which samples have OpenSlide's pixels.

    Raises:
        SlideError: as :func:`open_slide`.
    """
    slide = open_slide(path)
    levels = _jpeg_levels(path, slide) if slide.properties.get(PROPERTY_NAME_VENDOR) in _VENDORS else {}
    if not levels:
        return slide
    slide.close()
    direct = JpegSlide(path, levels)
    try:
        same = {level: found for level, found in levels.items() if direct.same_pixels(level)}
    except OpenSlideError as error:  # OpenSlide reads no more of a slide after its first error
        logger.debug("%s: not read directly: %s", path, error)
        direct.close()
        return open_slide(path)
    if different := sorted(levels.keys() - same.keys()):
        logger.debug("%s: levels %s have other pixels than OpenSlide's: not read directly", path, different)
    direct.levels = same
    return direct


def reader_name(slide: OpenSlide) -> str:
    """How the finest level of a slide is read, for the report."""
    return DIRECT if isinstance(slide, JpegSlide) and 0 in slide.levels else OPENSLIDE


def _jpeg_levels(path: Path, slide: OpenSlide) -> dict[int, JpegLevel]:
    levels = {}
    try:
        with tifffile.TiffFile(path) as file:
            pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage)]
            for number, size in enumerate(slide.level_dimensions):
                same = [
                    page for page in pages if page.is_tiled and (page.imagewidth, page.imagelength) == size
                ]
                if len(same) == 1 and (found := _jpeg_level(same[0])) is not None:
                    levels[number] = found
    except (
        Exception
    ) as error:  # tifffile raises almost anything for odd files; OpenSlide reads them, or says why not
        logger.debug("%s: not read directly: %s", path, error)
        return {}
    return levels


def _jpeg_level(page: tifffile.TiffPage) -> JpegLevel | None:
    coded = int(page.compression) == _JPEG and int(page.photometric) in (_RGB, _YCBCR)
    if not coded or page.samplesperpixel != 3 or page.bitspersample != 8 or int(page.planarconfig) != 1:
        return None
    colours = _ADOBE + bytes([int(page.photometric) == _YCBCR])
    tables = (page.jpegtables or b"")[len(_SOI) :].removesuffix(_EOI)
    level = JpegLevel(
        (page.imagewidth, page.imagelength),
        (page.tilewidth, page.tilelength),
        tuple(page.dataoffsets),
        tuple(page.databytecounts),
        _SOI + colours + tables,
    )
    rows = -(-level.size[1] // level.tile[1])
    complete = len(level.offsets) == len(level.lengths) == level.columns * rows
    return level if complete else None

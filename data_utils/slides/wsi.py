"""Whole-slide images: pixels, tile grid, preview.

Sizes: ``mpp`` is micrometres per pixel. Positions are (x, y) in pixels of level 0, the finest level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from openslide import OpenSlide
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

from data_utils.slides.jpeg_slide import JpegSlide
from data_utils.slides.levels import best_level, true_downsample
from data_utils.slides.opening import SlideError
from utils.files import atomic_path

# Longest side of what is decoded at once for the overview, in pixels.
OVERVIEW_BLOCK = 2048
# Small slides are enlarged in previews to about this side, in pixels.
PREVIEW_SIDE = 1000
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class TileGrid:
    """Where the tiles of a slide lie.

    Attributes:
        coords: upper left corners ``[L, 2]`` (x, y), level-0 pixels, int64, row by row.
        size: side of a tile and distance between tiles in level-0 pixels.
    """

    coords: np.ndarray
    size: int


# ---------------------------------------------------------------------------- pixels
def read_region(
    slide: OpenSlide, corner: tuple[float, float], size: tuple[float, float], out: tuple[int, int]
) -> Image.Image:
    """Reads a rectangle at any resolution.

    Takes the coarsest level that is fine enough, reads whole pixels of it and resamples exactly the
    rectangle (bicubic, antialiased). What lies outside of the scanned area is white.

    Args:
        slide: an open slide.
        corner: left and upper edge in level-0 pixels.
        size: width and height in level-0 pixels.
        out: width and height of the result in pixels.

    Returns:
        RGB image of size ``out``.

    Raises:
        openslide.OpenSlideError: the slide is damaged here.
    """
    level = best_level(slide, size[0] / out[0])
    stated, scale = slide.level_downsamples[level], true_downsample(slide, level)
    # OpenSlide blends neighbours when a position is between two pixels of the level: start on whole ones.
    pixel = [math.floor(edge / scale) for edge in corner]
    origin = [math.floor(index * stated + 1e-6) for index in pixel]
    start = [edge / scale - first / stated for edge, first in zip(corner, origin, strict=True)]
    stop = [first + length / scale for first, length in zip(start, size, strict=True)]
    # A tile at the border may end a fraction of a pixel behind a level whose size was rounded down.
    left_in_level = [
        max(1, total - index) for total, index in zip(slide.level_dimensions[level], pixel, strict=True)
    ]
    read = [min(math.ceil(end - 1e-6), left) for end, left in zip(stop, left_in_level, strict=True)]
    image, _ = read_pixels(slide, (origin[0], origin[1]), level, (read[0], read[1]))
    box = (
        *(max(0.0, first) for first in start),
        *(min(end, width) for end, width in zip(stop, read, strict=True)),
    )
    return image.resize(out, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def read_pixels(
    slide: OpenSlide, corner: tuple[int, int], level: int, size: tuple[int, int]
) -> tuple[Image.Image, Image.Image | None]:
    """Pixels of a level, white where nothing was scanned, by the quickest reader that the slide has.

    Args:
        slide: an open slide.
        corner: left and upper edge in level-0 pixels.
        level: of the pyramid.
        size: width and height in pixels of the level.

    Returns:
        RGB image, and how much was scanned ("L", 0 to 255) or ``None`` where all of it was.

    Raises:
        openslide.OpenSlideError: the slide is damaged here.
    """
    if isinstance(slide, JpegSlide) and (pixels := slide.decode(corner, level, size)) is not None:
        return Image.fromarray(pixels), None
    region = slide.read_region(corner, level, size)
    scanned = region.getchannel("A")
    if scanned.getextrema() == (255, 255):  # quicker than to paste it
        return region.convert("RGB"), None
    image = Image.new("RGB", region.size, WHITE)
    image.paste(region, mask=scanned)
    return image, scanned


def read_tile(slide: OpenSlide, corner: tuple[int, int], size: int, tile_size: int) -> Image.Image:
    """Reads the tile whose upper left corner is ``corner`` (x, y) and side ``size``, in level-0 pixels.

    Returns:
        RGB image of ``tile_size`` x ``tile_size`` pixels, enlarged where the slide is coarser.
    """
    return read_region(slide, corner, (size, size), (tile_size, tile_size))


def read_overview(slide: OpenSlide, mpp: float, overview_mpp: float) -> np.ndarray:
    """The whole slide at low magnification, ``[h, w, 3]`` uint8.

    Read in blocks, so that a slide without low levels does not end up in memory at full size.

    Args:
        slide: an open slide.
        mpp: resolution of its level 0.
        overview_mpp: resolution wanted; never finer than level 0.
    """
    width, height = slide.dimensions
    factor = max(1.0, overview_mpp / mpp)
    columns, rows = max(1, round(width / factor)), max(1, round(height / factor))
    fx, fy = width / columns, height / rows
    level = best_level(slide, fx)
    block = max(1, int(OVERVIEW_BLOCK * slide.level_downsamples[level] / max(fx, fy)))
    overview = np.empty((rows, columns, 3), np.uint8)
    for top in range(0, rows, block):
        for left in range(0, columns, block):
            out = min(block, columns - left), min(block, rows - top)
            part = read_region(slide, (left * fx, top * fy), (out[0] * fx, out[1] * fy), out)
            overview[top : top + out[1], left : left + out[0]] = np.asarray(part)
    return overview


# ---------------------------------------------------------------------------- tiles
def tile_grid(
    mask: np.ndarray,
    dimensions: tuple[int, int],
    mpp: float,
    tile_size: int,
    target_mpp: float,
    min_tissue: float,
) -> TileGrid:
    """The tiles of a slide that show enough tissue.

    The grid starts at (0, 0) with a step of ``round(tile_size * target_mpp / mpp)`` level-0 pixels. Tiles
    that would reach over the right or lower border are left out: they would show padding.

    Args:
        mask: tissue mask ``[h, w]`` of the whole slide, at any resolution.
        dimensions: width and height of level 0.
        mpp: resolution of level 0.
        tile_size: side of a tile in pixels at ``target_mpp``.
        target_mpp: resolution of tiles.
        min_tissue: share of a tile's area that must be tissue, 0 to 1; 0 keeps every tile.

    Raises:
        SlideError: no tile fits or none shows enough tissue.
    """
    size = round(tile_size * target_mpp / mpp)
    columns, rows = (length // size if size else 0 for length in dimensions)
    if columns < 1 or rows < 1:
        raise SlideError(
            f"smaller than one tile: {dimensions[0]} x {dimensions[1]} px at {mpp:g} mpp, "
            f"a tile of {tile_size} px at {target_mpp:g} mpp is {size} px"
        )
    # Sums over rectangles from an integral image; interpolating it linearly makes them exact also where tile
    # borders cut pixels of the mask.
    integral = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    integral[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    unit_x, unit_y = mask.shape[1] / dimensions[0] * size, mask.shape[0] / dimensions[1] * size
    integral = _interpolate(integral, np.arange(rows + 1) * unit_y)
    integral = _interpolate(integral.T, np.arange(columns + 1) * unit_x).T
    share = np.diff(np.diff(integral, axis=0), axis=1) / (unit_x * unit_y)
    coords = np.argwhere(share >= min_tissue - 1e-6)[:, ::-1].astype(np.int64) * size
    if len(coords) == 0:
        raise SlideError(
            f"no tissue: none of {columns * rows} tiles shows {min_tissue:.0%} tissue, "
            f"the most is {share.max():.1%}"
        )
    return TileGrid(coords, size)


def _interpolate(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Rows of ``values`` at fractional positions."""
    lower = np.minimum(positions.astype(np.int64), len(values) - 2)
    weight = (positions - lower)[:, None]
    return values[lower] * (1 - weight) + values[lower + 1] * weight


def save_preview(
    path: str | Path, overview: np.ndarray, mask: np.ndarray, grid: TileGrid, dimensions: tuple[int, int]
) -> None:
    """Writes a PNG that shows the overview, the border of the tissue mask (green) and the tiles (blue)."""
    picture = overview.copy()
    factor = max(1, PREVIEW_SIDE // max(mask.shape))
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    picture[find_boundaries(mask.repeat(factor, axis=0).repeat(factor, axis=1))] = (0, 160, 60)
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    scale = np.array([image.width / dimensions[0], image.height / dimensions[1]])
    for corner in grid.coords:
        start, stop = corner * scale, (corner + grid.size) * scale
        draw.rectangle((*start.tolist(), *stop.tolist()), outline=(30, 70, 200))
    with atomic_path(path) as temporary:
        image.save(temporary)

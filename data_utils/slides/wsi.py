"""Whole-slide images: resolution, tissue mask, tile grid, tile pixels.

Sizes: ``mpp`` is micrometres per pixel. Positions are (x, y) in pixels of level 0, the finest level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
from openslide import OpenSlide
from PIL import Image, ImageDraw
from skimage.color import rgb2lab
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label
from skimage.morphology import closing, disk
from skimage.segmentation import find_boundaries

from data_utils.slides.opening import SlideError
from utils.files import atomic_path

# What a slide that states no resolution is taken for (40x, the commonest in TCGA).
DEFAULT_MPP = 0.25
# Resolution tags outside of this range are no microscope's: 352.8 is the 72 dpi of an image editor.
PLAUSIBLE_MPP = (0.05, 20.0)
# A level counts as fine enough for a tile when it is coarser than wanted by less than this factor, because
# down-sampling factors of real slides are odd (2.0005 for a nominal 2).
LEVEL_TOLERANCE = 1.01
# Longest side of what is decoded at once for the overview, in pixels.
OVERVIEW_BLOCK = 2048
# Small slides are enlarged in previews to about this side, in pixels.
PREVIEW_SIDE = 1000
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class TissueMaskParams:
    """Every number of the tissue mask.

    Tissue is what has colour: chroma ``sqrt(a^2 + b^2)`` in LAB, which glass and shadows have not. Otsu's
    threshold is kept inside ``[min_chroma, max_chroma]``, because on a slide that is all glass or all
    tissue it would split noise or tissue in two.

    Attributes:
        mpp: resolution of the overview.
        smooth_um: standard deviation of the Gaussian applied to the chroma.
        min_chroma: the threshold is never lower; glass stays below.
        max_chroma: the threshold is never higher; pale tissue stays above.
        closing_um: radius of the closing that joins what belongs together.
        min_object_um2: specks smaller than this are dropped.
        max_hole_um2: holes up to this size are filled.
    """

    mpp: float = 8.0
    smooth_um: float = 8.0
    min_chroma: float = 6.0
    max_chroma: float = 12.0
    closing_um: float = 24.0
    min_object_um2: float = 10_000.0
    max_hole_um2: float = 20_000.0


@dataclass(frozen=True)
class TileGrid:
    """Where the tiles of a slide lie.

    Attributes:
        coords: upper left corners ``[L, 2]`` (x, y), level-0 pixels, int64, row by row.
        size: side of a tile and distance between tiles in level-0 pixels.
    """

    coords: np.ndarray
    size: int


# ---------------------------------------------------------------------------- resolution
def level0_mpp(properties: Mapping[str, str]) -> tuple[float, bool]:
    """Resolution of level 0 and whether it had to be assumed.

    Read from, in this order: the vendor's own value, the TIFF resolution; assumed from the objective
    (10 / magnification), else ``DEFAULT_MPP``.
    """
    for name in (openslide.PROPERTY_NAME_MPP_X, "aperio.MPP"):
        if (mpp := _plausible(properties.get(name))) is not None:
            return mpp, False
    unit = {"centimeter": 1e4, "inch": 25_400.0}.get(properties.get("tiff.ResolutionUnit", "").lower())
    pixels = _number(properties.get("tiff.XResolution"))
    if unit and pixels and (mpp := _plausible(unit / pixels)) is not None:
        return mpp, False
    for name in (openslide.PROPERTY_NAME_OBJECTIVE_POWER, "aperio.AppMag"):
        power = _number(properties.get(name))
        if power and (mpp := _plausible(10.0 / power)) is not None:
            return mpp, True
    return DEFAULT_MPP, True


def _number(text: str | float | None) -> float | None:
    try:
        value = float(str(text).replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _plausible(text: str | float | None) -> float | None:
    value = _number(text)
    return value if value and PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1] else None


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
    level = slide.get_best_level_for_downsample(size[0] / out[0] * LEVEL_TOLERANCE)
    stated, scale = slide.level_downsamples[level], _true_downsample(slide, level)
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
    region = slide.read_region(tuple(origin), level, tuple(read))
    alpha = None if region.mode == "RGB" else region.getchannel("A")
    if alpha is None or alpha.getextrema() == (255, 255):  # all of it was scanned: quicker than to paste it
        image = region.convert("RGB")
    else:
        image = Image.new("RGB", region.size, WHITE)
        image.paste(region, mask=alpha)
    box = (
        *(max(0.0, first) for first in start),
        *(min(end, width) for end, width in zip(stop, read, strict=True)),
    )
    return image.resize(out, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def _true_downsample(slide: OpenSlide, level: int) -> float:
    """By how much a level is smaller than level 0.

    OpenSlide divides the sizes, but pyramids that halve drop odd pixels: 4443 -> 2221 is a factor of 2, not
    2.0005, which far from the origin would be off by a pixel.
    """
    stated = slide.level_downsamples[level]
    sizes = zip(slide.dimensions, slide.level_dimensions[level], strict=True)
    whole = round(stated)
    return float(whole) if all(abs(full / whole - small) < 1 for full, small in sizes) else stated


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
    level = slide.get_best_level_for_downsample(fx * LEVEL_TOLERANCE)
    block = max(1, int(OVERVIEW_BLOCK * slide.level_downsamples[level] / max(fx, fy)))
    overview = np.empty((rows, columns, 3), np.uint8)
    for top in range(0, rows, block):
        for left in range(0, columns, block):
            out = min(block, columns - left), min(block, rows - top)
            part = read_region(slide, (left * fx, top * fy), (out[0] * fx, out[1] * fy), out)
            overview[top : top + out[1], left : left + out[0]] = np.asarray(part)
    return overview


# ---------------------------------------------------------------------------- tissue and tiles
def tissue_mask(overview: np.ndarray, mpp: float, params: TissueMaskParams | None = None) -> np.ndarray:
    """Where an overview shows tissue.

    Args:
        overview: ``[h, w, 3]`` uint8 RGB.
        mpp: resolution of the overview.
        params: see :class:`TissueMaskParams`.

    Returns:
        ``[h, w]`` bool; all False on a blank slide.
    """
    params = params or TissueMaskParams()
    lab = rgb2lab(overview)
    chroma = gaussian(np.hypot(lab[..., 1], lab[..., 2]), sigma=params.smooth_um / mpp)
    threshold = float(np.clip(threshold_otsu(chroma), params.min_chroma, params.max_chroma))
    mask = chroma > threshold
    mask = closing(mask, disk(max(1, round(params.closing_um / mpp))))
    mask = _drop_small(mask, params.min_object_um2 / mpp**2)
    return ~_drop_small(~mask, params.max_hole_um2 / mpp**2)


def _drop_small(mask: np.ndarray, min_pixels: float) -> np.ndarray:
    """Removes connected parts of fewer than ``min_pixels`` pixels."""
    labels = label(mask, connectivity=1)
    areas = np.bincount(labels.ravel())
    areas[0] = 0  # label 0 is everything outside of the mask
    return areas[labels] >= max(1.0, min_pixels)


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

"""Where a slide shows tissue: what differs in colour from the glass of this slide."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from openslide import OpenSlide
from PIL import Image
from scipy.ndimage import maximum_filter, uniform_filter
from skimage.color import rgb2lab
from skimage.filters import gaussian
from skimage.measure import label
from skimage.morphology import closing, disk, footprint_rectangle

from data_utils.slides.levels import true_downsample
from data_utils.slides.wsi import read_overview, read_pixels

# Rules and the least share of tissue in a tile that belongs to each.
MIN_TISSUE = {"auto": 0.1, "published": 0.95}
# The published rule: factor on the mean, side of the closing, and the least size of the level it looks at, in pixels.
_PUBLISHED = (1.1, 9, 1000)
# A level larger than this is not decoded to see what of the slide was scanned, in pixels.
_MOST_PIXELS = 50_000_000


@dataclass(frozen=True)
class TissueMaskParams:
    """Every number of the tissue mask.

    Tissue is what has another colour than the glass of the slide: chroma ``sqrt((a - a0)^2 + (b - b0)^2)`` in
    LAB, whatever else lies on the slide. Glass is bright, even, hardly tinted, and the brightest of what is so;
    a slide that shows none of it is measured against white.

    Attributes:
        mpp: resolution of the overview.
        smooth_um: standard deviation of the Gaussian applied to colours and chroma.
        even: glass varies less than this within 5 x 5 pixels, once smoothed (standard deviation in LAB).
        bright: glass is brighter (L).
        tint: glass has less chroma.
        glass_share: least share of the slide for which glass is believed.
        glass_depth: what is darker than the brightest even parts by more than this is no glass.
        noise: the threshold is the median chroma of the glass and so many of its standard deviations, but
        min_chroma: never lower, and
        max_chroma: never higher: pale tissue stays above.
        edge: tissue ends where the chroma falls to this share of what is right beside.
        closing_um: radius of the closing that joins what belongs together.
        min_object_um2: specks smaller than this are dropped.
        max_hole_um2: holes up to this size are filled.
    """

    mpp: float = 8.0
    smooth_um: float = 8.0
    even: float = 1.0
    bright: float = 75.0
    tint: float = 25.0
    glass_share: float = 0.005
    glass_depth: float = 3.0
    noise: float = 10.0
    min_chroma: float = 5.0
    max_chroma: float = 12.0
    edge: float = 0.3
    closing_um: float = 24.0
    min_object_um2: float = 10_000.0
    max_hole_um2: float = 20_000.0


@dataclass(frozen=True)
class TissueRule:
    """How tissue is found.

    Attributes:
        name: ``auto`` (see :class:`TissueMaskParams`) or ``published`` (see :func:`published_mask`).
        min_tissue: least share of tissue in a tile.
    """

    name: str = "auto"
    min_tissue: float = MIN_TISSUE["auto"]

    @classmethod
    def of(cls, name: str, min_tissue: float | None = None) -> TissueRule:
        """A rule by name, with its own share where none is given."""
        return cls(name, MIN_TISSUE[name] if min_tissue is None else min_tissue)

    @property
    def record(self) -> str:
        """The rule for the record of a feature file, with a digest of its numbers."""
        numbers = TissueMaskParams() if self.name == "auto" else _PUBLISHED
        return f"{self.name}-{hashlib.sha256(repr(numbers).encode()).hexdigest()[:6]}"

    def look(self, slide: OpenSlide, mpp: float) -> tuple[np.ndarray, np.ndarray]:
        """Overview ``[h, w, 3]`` of a slide and its tissue ``[h, w]``.

        Args:
            slide: an open slide.
            mpp: resolution of its level 0.
        """
        if self.name == "published":
            overview = read_overview(slide, 1.0, _published_downsample(slide))
            return overview, published_mask(overview)
        params = TissueMaskParams()
        overview = read_overview(slide, mpp, params.mpp)
        scanned = scanned_part(slide, overview.shape[:2])
        return overview, tissue_mask(overview, mpp * slide.dimensions[0] / overview.shape[1], params, scanned)


def _published_downsample(slide: OpenSlide) -> float:
    levels = range(slide.level_count)
    large = [level for level in levels if max(slide.level_dimensions[level]) > _PUBLISHED[2]]
    return true_downsample(slide, max(large, default=0))


def scanned_part(slide: OpenSlide, shape: tuple[int, int]) -> np.ndarray:
    """What of an overview ``[h, w]`` the scanner has seen; the rest was filled up with white."""
    level = slide.level_count - 1
    size = slide.level_dimensions[level]
    if size[0] * size[1] > _MOST_PIXELS:
        return np.ones(shape, bool)
    _, scanned = read_pixels(slide, (0, 0), level, size)
    if scanned is None:
        return np.ones(shape, bool)
    return np.asarray(scanned.resize(shape[::-1], Image.Resampling.BOX)) == 255


# ---------------------------------------------------------------------------- auto
def tissue_mask(
    overview: np.ndarray,
    mpp: float,
    params: TissueMaskParams | None = None,
    scanned: np.ndarray | None = None,
) -> np.ndarray:
    """Where an overview shows tissue.

    Args:
        overview: ``[h, w, 3]`` uint8 RGB.
        mpp: resolution of the overview.
        params: see :class:`TissueMaskParams`.
        scanned: ``[h, w]``, where it is a picture of the slide; everywhere by default.

    Returns:
        ``[h, w]`` bool; all False on a blank slide.
    """
    params = params or TissueMaskParams()
    lab = rgb2lab(overview)
    scanned = np.ones(lab.shape[:2], bool) if scanned is None else scanned
    glass = find_glass(gaussian(lab, sigma=params.smooth_um / mpp, channel_axis=-1), scanned, params)
    tint = np.median(lab[glass][:, 1:], axis=0) if glass.any() else np.zeros(2)
    chroma = gaussian(np.linalg.norm(lab[..., 1:] - tint, axis=-1) * scanned, sigma=params.smooth_um / mpp)
    # Smoothing spreads strong colour over its border, but not further than this.
    reach = 2 * round(3 * params.smooth_um / mpp) + 1
    border = params.edge * maximum_filter(chroma, reach)
    mask = chroma > np.maximum(border, chroma_threshold(chroma[glass], params))
    mask = closing(mask, disk(max(1, round(params.closing_um / mpp))))
    mask = _drop_small(mask, params.min_object_um2 / mpp**2)
    return ~_drop_small(~mask, params.max_hole_um2 / mpp**2)


def find_glass(lab: np.ndarray, scanned: np.ndarray, params: TissueMaskParams) -> np.ndarray:
    """Where ``[h, w, 3]`` in LAB surely shows glass, ``[h, w]`` bool; nowhere if there is next to none.

    ``lab`` should be smoothed: what is left of the noise of the pixels is no unevenness.
    """
    mean = uniform_filter(lab, (5, 5, 1))
    variance = uniform_filter(lab**2, (5, 5, 1)) - mean**2
    even = variance.sum(axis=-1) < params.even**2
    light, chroma = lab[..., 0], np.linalg.norm(lab[..., 1:], axis=-1)
    found = scanned & even & (light > params.bright) & (chroma < params.tint)
    if found.sum() < params.glass_share * scanned.sum() or not found.any():
        return np.zeros_like(found)
    # The brightest tenth: even, pale tissue may cover more of the slide than glass does.
    return found & (light > np.percentile(light[found], 90) - params.glass_depth)


def chroma_threshold(glass: np.ndarray, params: TissueMaskParams) -> float:
    """From which chroma on something is tissue, by the chroma of the glass ``[n]``."""
    if not glass.size:
        return params.min_chroma
    middle = np.median(glass)
    spread = 1.4826 * np.median(np.abs(glass - middle))
    return float(np.clip(middle + params.noise * spread, params.min_chroma, params.max_chroma))


# ---------------------------------------------------------------------------- published
def published_mask(overview: np.ndarray) -> np.ndarray:
    """The rule of the published code: LAB's a* above 1.1 times its mean, closed by 9 x 9 pixels.

    Args:
        overview: ``[h, w, 3]`` uint8 RGB at the smallest level with a side of more than 1,000 pixels.
    """
    factor, side, _ = _PUBLISHED
    red = rgb2lab(overview)[..., 1]
    return closing(red > factor * red.mean(), footprint_rectangle((side, side)))


# ---------------------------------------------------------------------------- parts
def _drop_small(mask: np.ndarray, min_pixels: float) -> np.ndarray:
    """Removes connected parts of fewer than ``min_pixels`` pixels."""
    labels = label(mask, connectivity=1)
    areas = np.bincount(labels.ravel())
    areas[0] = 0  # label 0 is everything outside of the mask
    return areas[labels] >= max(1.0, min_pixels)

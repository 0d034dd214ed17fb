"""Where on the slides: overlays, galleries of patches, GeoJSON for QuPath and CSV."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.patches import Rectangle
from openslide import OpenSlide

from data_utils.cases.datasets import SlidePatches
from data_utils.features.slide_names import SlideFiles, stem_of
from data_utils.features.store import FeatureMeta
from data_utils.slides.finding import find_slides, slide_name
from data_utils.slides.opening import SlideError, open_slide
from data_utils.slides.wsi import read_overview, read_tile
from utils.evaluation.plots import figure
from utils.files import atomic_path

logger = logging.getLogger(__name__)

OPACITY = 0.6
# Side of the thumbnail below an overlay, in pixels.
THUMBNAIL = 1000
# And of the small ones side by side.
SMALL = 400
# The colours end at this quantile of the absolute values: one patch must not hide all others.
BRIGHTEST = 0.98
# Columns of a table of patches besides its values.
PLACE = ("slide", "x", "y", "size")
# Side of a patch where the feature file does not state it, in level-0 pixels.
UNKNOWN_SIZE = 256


def size_of(meta: FeatureMeta, coords: np.ndarray) -> int:
    """Side of a patch in level-0 pixels; of a file that does not state it, the smallest step of its coordinates."""
    if meta.patch_size_level0:
        return meta.patch_size_level0
    steps = np.abs(np.diff(np.unique(coords[:, 0])))
    return int(steps.min()) if len(steps) else UNKNOWN_SIZE


def find_slide(folder: Path | None, name: str) -> Path | None:
    """The slide of a feature file below a folder, by the rule of :mod:`data_utils.features.slide_names`."""
    if folder is None or not folder.is_dir():
        return None
    try:
        slides = {slide_name(path): path for path in find_slides(folder).slides}
    except FileNotFoundError:
        return None
    found = SlideFiles(Path(f"{slide}.h5") for slide in slides).candidates(name)
    return slides[stem_of(found[0].name)] if found else None


# ---------------------------------------------------------------------------- tables
def patch_table(slides: Sequence[SlidePatches], values: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row for every patch of a case: its slide, corner and side in level-0 pixels, and its values.

    Args:
        slides: of the case.
        values: ``[L]`` over all slides, by name.

    Raises:
        ValueError: there are more or fewer values than patches.
    """
    parts = [
        pd.DataFrame(
            {
                "slide": stem_of(s.path.name),
                "x": s.corners[:, 0],
                "y": s.corners[:, 1],
                "size": size_of(s.meta, s.corners),
            }
        )
        for s in slides
        if len(s.corners)
    ]
    table = pd.concat(parts, ignore_index=True)
    for name, column in values.items():
        if len(column) != len(table):
            raise ValueError(f"{len(column)} values of {name} for {len(table)} patches")
        table[name] = column
    return table


def write_geojson(patches: pd.DataFrame, names: Sequence[str], path: Path) -> None:
    """Writes the patches of one slide as tiles for QuPath, corners in level-0 pixels, values as measurements."""
    features = []
    corners = patches[["x", "y", "size"]].astype(int).to_numpy().tolist()
    for (left, top, side), row in zip(corners, patches[list(names)].to_numpy().tolist(), strict=True):
        right, bottom = left + side, top + side
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"objectType": "tile", "measurements": dict(zip(names, row, strict=True))},
            }
        )
    with atomic_path(path) as temporary:
        content = {"type": "FeatureCollection", "features": features}
        temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


# ---------------------------------------------------------------------------- figures
@dataclass(frozen=True, eq=False)
class Scale:
    """How values become colours, the same on every slide of a patient.

    Attributes:
        colours: a colour map that colour-blind readers can read.
        norm: from values to it.
        label: of the colour bar.
    """

    colours: str
    norm: Normalize
    label: str


def attribution_scale(values: np.ndarray) -> Scale:
    """Orange raises, purple lowers, white is no attribution."""
    limit = float(np.quantile(np.abs(values), BRIGHTEST)) or float(np.abs(values).max()) or 1.0
    return Scale("PuOr_r", CenteredNorm(0, limit), "attribution (orange raises the target, purple lowers it)")


def attention_scale(values: np.ndarray) -> Scale:
    """Of attention as a multiple of what every patch would have if all had the same."""
    limit = max(float(np.quantile(values, BRIGHTEST)), 1.0)
    return Scale("viridis", Normalize(0, limit), "attention, in multiples of the average patch")


@dataclass(frozen=True, eq=False)
class Ground:
    """What lies below the maps of a slide, read once.

    Attributes:
        image: the thumbnail, or None.
        extent: left, right, bottom and top of what is shown, in level-0 pixels.
        mpp: micrometres per level-0 pixel, for the scale bar; None draws none.
    """

    image: np.ndarray | None
    extent: tuple[float, float, float, float]
    mpp: float | None

    @classmethod
    def of(cls, patches: pd.DataFrame, slide: Path | None, mpp: float | None) -> Ground:
        """The thumbnail of a slide, or as much empty space as its patches take where it is absent or unreadable."""
        if slide is not None:
            try:
                opened = open_slide(slide)
                width, height = opened.dimensions
                image = read_overview(opened, 1.0, max(1.0, max(width, height) / THUMBNAIL))
                return cls(np.asarray(image), (0, width, height, 0), mpp)
            except SlideError as error:
                logger.warning("%s: %s; its maps have no background", slide, error)
        corner, size = patches[["x", "y"]].to_numpy(), int(patches["size"].iloc[0])
        low, high = corner.min(axis=0) - size, corner.max(axis=0) + 2 * size
        return cls(None, (float(low[0]), float(high[0]), float(high[1]), float(low[1])), mpp)


def draw_map(patches: pd.DataFrame, name: str, path: Path, title: str, ground: Ground, scale: Scale) -> None:
    """Draws the values of the patches of one slide over its thumbnail, or over nothing.

    Args:
        patches: as :func:`patch_table` gives them, of one slide.
        name: column to draw.
        path: of the PNG.
        title: of the figure.
        ground: of the slide.
        scale: of the values.
    """
    with figure(path, 6.0, 5.0) as drawing:
        axes = drawing.subplots()
        _panel(axes, patches, patches[name].to_numpy(), ground, scale)
        axes.set_title(title)
        # The bar of solid colours: the transparent ones depend on what lies below.
        bar = drawing.colorbar(ScalarMappable(scale.norm, scale.colours), ax=axes, shrink=0.8)
        bar.set_label(scale.label)
        if ground.mpp:
            _scale_bar(axes, ground.extent, ground.mpp)


def draw_attention(
    patches: pd.DataFrame,
    values: Mapping[tuple[str, str], np.ndarray],
    path: Path,
    ground: Ground,
    scale: Scale,
) -> None:
    """Draws a small map for every layer (columns) and group of tokens (rows) of one slide.

    Args:
        patches: as for :func:`draw_map`.
        values: of the patches, by layer and group.
        path, ground, scale: as for :func:`draw_map`.
    """
    layers, groups = (list(dict.fromkeys(key[k] for key in values)) for k in (0, 1))
    left, right, bottom, top = ground.extent
    if ground.image is not None:  # a small map needs few pixels
        step = -(-max(ground.image.shape) // SMALL)
        ground = replace(ground, image=ground.image[::step, ::step])
    height = 1.7 * min(max((bottom - top) / (right - left), 0.4), 1.6)
    with figure(path, 1.9 * len(layers) + 1.0, (height + 0.25) * len(groups) + 0.4) as drawing:
        grid = drawing.subplots(len(groups), len(layers), squeeze=False)
        for line, group in zip(grid, groups, strict=True):
            line[0].set_ylabel(group)
            for axes, layer in zip(line, layers, strict=True):
                _panel(axes, patches, values[layer, group], ground, scale)
        for axes, layer in zip(grid[0], layers, strict=True):
            axes.set_title(layer)
        bar = drawing.colorbar(ScalarMappable(scale.norm, scale.colours), ax=grid, shrink=0.8)
        bar.set_label(scale.label)
        if ground.mpp:
            _scale_bar(grid[-1][0], ground.extent, ground.mpp)


def _panel(axes: Axes, patches: pd.DataFrame, values: np.ndarray, ground: Ground, scale: Scale) -> None:
    if ground.image is not None:
        axes.imshow(ground.image, extent=ground.extent)
    size = int(patches["size"].iloc[0])
    squares = [Rectangle(tuple(xy), size, size) for xy in patches[["x", "y"]].to_numpy().tolist()]
    opacity = OPACITY if ground.image is not None else 1.0
    cover = PatchCollection(squares, cmap=scale.colours, norm=scale.norm, linewidths=0, alpha=opacity)
    cover.set_array(values)
    axes.add_collection(cover)
    axes.set(xlim=ground.extent[:2], ylim=ground.extent[2:], aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _scale_bar(axes: Axes, extent: tuple[float, float, float, float], mpp: float) -> None:
    """A bar of a round length, about a fifth of the width."""
    left, right, bottom, top = extent
    wanted = (right - left) * mpp / 5
    power = 10.0 ** np.floor(np.log10(wanted))
    length = max(n for n in (power, 2 * power, 5 * power) if n <= wanted)
    y = bottom + 0.03 * (bottom - top)
    axes.plot([left, left + length / mpp], [y, y], color="black", linewidth=3, clip_on=False)
    text = f"{length:g} µm" if length < 1000 else f"{length / 1000:g} mm"
    axes.text(left + length / mpp, y, f"  {text}", va="center", fontsize=8, clip_on=False)


def draw_gallery(patches: pd.DataFrame, name: str, slide: Path, path: Path, count: int = 6) -> bool:
    """The patches of a slide with the highest (first row) and the lowest attributions.

    Returns:
        Whether the slide could be read.
    """
    try:
        opened: OpenSlide = open_slide(slide)
    except SlideError as error:
        logger.warning("%s: %s; no gallery", slide, error)
        return False
    order = patches.sort_values(name, ascending=False)
    rows = (("highest", order.head(count)), ("lowest", order.tail(count)[::-1]))
    with figure(path, 1.35 * count, 3.6) as drawing:
        grid = drawing.subplots(2, count, squeeze=False)
        for line, (word, chosen) in zip(grid, rows, strict=True):
            line[0].set_ylabel(word)
            for axes in line:
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
            corners = chosen[["x", "y", "size"]].astype(int).to_numpy().tolist()
            for axes, (x, y, size), value in zip(line, corners, chosen[name].to_numpy(), strict=False):
                axes.imshow(read_tile(opened, (x, y), size, 192))
                axes.set_title(f"{value:.3g}\n({x}, {y})", fontsize=7, fontweight="normal")
    return True

"""Where on the slides: overlays, galleries of patches, GeoJSON for QuPath and CSV."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from openslide import OpenSlide

from data_utils.cases.datasets import SlidePatches
from data_utils.features.slide_names import SlideFiles, stem_of
from data_utils.features.store import FeatureMeta
from data_utils.slides import geojson
from data_utils.slides.finding import find_slides, slide_name
from data_utils.slides.opening import SlideError, open_slide
from data_utils.slides.wsi import read_overview, read_tile
from utils.evaluation.plots import figure

logger = logging.getLogger(__name__)

OPACITY = 0.6
# Many figures are drawn: margins are given, because finding them takes longer than drawing.
QUICK: dict[Any, Any] = {"savefig.dpi": 120, "figure.constrained_layout.use": False}
# Side of the thumbnail below an overlay, in pixels.
THUMBNAIL = 600
# And of the small ones side by side.
SMALL = 240
# Side of a patch of the gallery, in pixels.
TILE, TILE_DPI = 160, 130
# The colours end at this quantile of the absolute values: one patch must not hide all others.
BRIGHTEST = 0.98
# Corners of a patch beside the first one, in units of its side.
SQUARE = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
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


def slides_below(folder: Path | None) -> dict[str, Path]:
    """The slides of a folder by their names; none where there is no folder, or no slide in it."""
    if folder is None or not folder.is_dir():
        return {}
    try:
        return {stem_of(f"{slide_name(path)}.h5"): path for path in find_slides(folder).slides}
    except FileNotFoundError:
        return {}


def find_slide(slides: Mapping[str, Path], name: str) -> Path | None:
    """The slide of a feature file, by the rule of :mod:`data_utils.features.slide_names`."""
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
    corners = patches[["x", "y", "size"]].astype(int).to_numpy().tolist()
    tiles = [
        geojson.tile(left, top, side, dict(zip(names, row, strict=True)))
        for (left, top, side), row in zip(corners, patches[list(names)].to_numpy().tolist(), strict=True)
    ]
    geojson.write(path, tiles)


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
        slide: the open slide, or None.
    """

    image: np.ndarray | None
    extent: tuple[float, float, float, float]
    mpp: float | None
    slide: OpenSlide | None = None

    @classmethod
    def of(cls, patches: pd.DataFrame, slide: Path | None, mpp: float | None) -> Ground:
        """The thumbnail of a slide, or as much empty space as its patches take where it is absent or unreadable."""
        if slide is not None:
            try:
                opened = open_slide(slide)
                width, height = opened.dimensions
                image = read_overview(opened, 1.0, max(1.0, max(width, height) / THUMBNAIL))
                return cls(np.asarray(image), (0, width, height, 0), mpp, opened)
            except SlideError as error:
                logger.warning("%s: %s; its maps have no background, and there is no gallery", slide, error)
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
    inner = 5.0, 5.0 * _ratio(ground.extent)
    width, height = inner[0] + 1.1, inner[1] + 0.6
    with figure(path, width, height, QUICK) as drawing:
        axes = drawing.add_axes((0.1 / width, 0.3 / height, inner[0] / width, inner[1] / height))
        _panels(axes, patches, [[patches[name].to_numpy()]], ground, scale)
        axes.set_title(title)
        _colour_bar(drawing, 1 - 0.9 / width, 0.12 / width, scale)


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
    middle = (ground.extent[2] - ground.extent[3]) / 2
    if ground.image is not None:  # a small map needs few pixels
        step = -(-max(ground.image.shape) // SMALL)
        ground = replace(ground, image=ground.image[::step, ::step])
    # Inches: the maps between a column of names, a row of titles and the colour bar.
    inner = 1.8 * len(layers), max(1.8 * _ratio(ground.extent) * len(groups), 2.0)
    width, height = inner[0] + 1.3, inner[1] + 0.6
    with figure(path, width, height, QUICK) as drawing:
        axes = drawing.add_axes((0.3 / width, 0.3 / height, inner[0] / width, inner[1] / height))
        corners = _panels(
            axes, patches, [[values[layer, group] for layer in layers] for group in groups], ground, scale
        )
        for group, (x, y) in zip(groups, corners[:, 0], strict=True):
            axes.text(x, y + middle, f"{group}  ", ha="right", va="center", rotation=90)
        for layer, (x, y) in zip(layers, corners[0], strict=True):
            axes.text(x, y, layer, va="bottom", fontweight="bold")
        _colour_bar(drawing, 1 - 0.9 / width, 0.12 / width, scale)


def _ratio(extent: tuple[float, float, float, float]) -> float:
    """Height of a map beside its width; the longest and the widest leave some space empty."""
    left, right, bottom, top = extent
    return min(max((bottom - top) / (right - left), 0.4), 1.6)


def _panels(
    axes: Axes, patches: pd.DataFrame, rows: Sequence[Sequence[np.ndarray]], ground: Ground, scale: Scale
) -> np.ndarray:
    """Draws maps in rows and columns on one axes, which takes a fraction of the time of an axes for each.

    Returns:
        Upper left corners ``[rows, columns, 2]`` of the maps, in the units of the axes (those of the first map).
    """
    left, right, bottom, top = ground.extent
    gap = 0.06 * (right - left)
    steps = np.array([right - left + gap, bottom - top + gap])
    grid = np.stack(np.meshgrid(np.arange(len(rows[0])), np.arange(len(rows))), axis=-1) * steps
    size, places = int(patches["size"].iloc[0]), patches[["x", "y"]].to_numpy()
    squares = []
    for x, y in grid.reshape(-1, 2):
        if ground.image is not None:
            axes.imshow(ground.image, extent=(left + x, right + x, bottom + y, top + y))
        squares.append((places + np.array([x, y]))[:, None] + size * SQUARE)
    opacity = OPACITY if ground.image is not None else 1.0
    cover = PolyCollection(
        list(np.concatenate(squares)), cmap=scale.colours, norm=scale.norm, linewidths=0, alpha=opacity
    )
    cover.set_array(np.concatenate([values for row in rows for values in row]))
    axes.add_collection(cover)
    end = grid[-1, -1]
    axes.set(xlim=(left, right + end[0]), ylim=(bottom + end[1], top), aspect="equal")
    axes.set_axis_off()
    if ground.mpp:
        _scale_bar(axes, (left, right, bottom + end[1], top + end[1]), ground.mpp)
    return grid + np.array([left, top])


def _colour_bar(drawing: Figure, left: float, width: float, scale: Scale) -> None:
    """The bar of solid colours: the transparent ones depend on what lies below."""
    beside = drawing.add_axes((left, 0.14, width, 0.7))
    bar = drawing.colorbar(ScalarMappable(scale.norm, scale.colours), cax=beside)
    bar.set_label(scale.label)


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


def draw_gallery(patches: pd.DataFrame, name: str, slide: OpenSlide, path: Path, count: int = 6) -> None:
    """The patches of a slide with the highest (first row) and the lowest attributions."""
    order = patches.sort_values(name, ascending=False)
    rows = (("highest", order.head(count)), ("lowest", order.tail(count)[::-1]))
    across, down = TILE + 16, TILE + 48  # of a picture and the space about it, in pixels
    with figure(
        path, 0.2 + count * across / TILE_DPI, 2 * down / TILE_DPI, {**QUICK, "savefig.dpi": TILE_DPI}
    ) as drawing:
        axes = drawing.add_axes((0, 0, 1, 1))
        for line, (word, chosen) in enumerate(rows):
            y = line * down + 40
            axes.text(-4, y + TILE / 2, word, rotation=90, ha="right", va="center")
            corners = chosen[["x", "y", "size"]].astype(int).to_numpy().tolist()
            for place, ((left, top, size), value) in enumerate(
                zip(corners, chosen[name].to_numpy(), strict=True)
            ):
                x = place * across
                axes.imshow(read_tile(slide, (left, top), size, TILE), extent=(x, x + TILE, y + TILE, y))
                axes.text(
                    x + TILE / 2, y - 3, f"{value:.3g}\n({left}, {top})", fontsize=7, ha="center", va="bottom"
                )
        axes.set(xlim=(-0.2 * TILE_DPI, count * across), ylim=(2 * down, 0), aspect="equal")
        axes.set_axis_off()

"""GeoJSON as QuPath imports it (File > Import objects): tissue and tiles of a slide, in level-0 pixels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from skimage.measure import find_contours, label, regionprops

from data_utils.slides.wsi import TileGrid
from utils.files import atomic_path


def tile(left: int, top: int, side: int, measurements: Mapping[str, float] | None = None) -> dict[str, Any]:
    """A square, with numbers that QuPath can colour it by."""
    right, bottom = left + side, top + side
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    properties: dict[str, Any] = {"objectType": "tile"}
    if measurements is not None:
        properties["measurements"] = dict(measurements)
    return _feature([ring], properties)


def tissue(mask: np.ndarray, dimensions: tuple[int, int]) -> list[dict[str, Any]]:
    """The pieces of a mask ``[h, w]`` of a whole slide as polygons with holes.

    Args:
        mask: where tissue is.
        dimensions: width and height of level 0.
    """
    scale = np.array([dimensions[0] / mask.shape[1], dimensions[1] / mask.shape[0]])
    pieces = []
    for piece in regionprops(label(mask, connectivity=1)):
        corner = np.array(piece.bbox[:2])

        def rings(inside: np.ndarray, corner: np.ndarray = corner) -> list[list[list[int]]]:
            # A border of background closes what touches the edge; lines run between the centres of pixels.
            lines = find_contours(np.pad(inside, 1).astype(np.float32), 0.5)
            edges = (np.rint((line + corner - 0.5)[:, ::-1] * scale) for line in lines)
            return [np.clip(edge, 0, dimensions).astype(int).tolist() for edge in edges]

        holes = rings(piece.image_filled & ~piece.image)
        properties = {"objectType": "annotation", "classification": {"name": "Tissue"}}
        pieces.append(_feature([*rings(piece.image_filled), *holes], properties))
    return pieces


def write_plan(path: Path, mask: np.ndarray, grid: TileGrid, dimensions: tuple[int, int]) -> None:
    """Writes the tissue that was found, and the tiles that are read."""
    tiles = [tile(left, top, grid.size) for left, top in grid.coords.tolist()]
    write(path, [*tissue(mask, dimensions), *tiles])


def write(path: Path, features: Iterable[Mapping[str, Any]]) -> None:
    """Writes features as one collection."""
    content = {"type": "FeatureCollection", "features": list(features)}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def _feature(rings: list[Any], properties: dict[str, Any]) -> dict[str, Any]:
    geometry = {"type": "Polygon", "coordinates": rings}
    return {"type": "Feature", "geometry": geometry, "properties": properties}

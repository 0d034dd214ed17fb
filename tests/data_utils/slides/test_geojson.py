"""Tissue and tiles as QuPath reads them."""

import json

import numpy as np
from matplotlib.path import Path as Outline

from data_utils.slides import geojson
from data_utils.slides.wsi import TileGrid


def inside(feature, shape, scale):
    """The pixels of a mask whose centres lie in a polygon and in none of its holes."""
    rows, columns = np.indices(shape)
    centres = np.stack([columns + 0.5, rows + 0.5], axis=-1).reshape(-1, 2) * scale
    outer, *holes = (
        Outline(ring).contains_points(centres).reshape(shape) for ring in feature["geometry"]["coordinates"]
    )
    return outer & ~np.any([np.zeros(shape, bool), *holes], axis=0)


def test_polygons_cover_the_tissue_and_leave_its_holes_out():
    mask = np.zeros((30, 40), bool)
    mask[0:20, 0:25] = True  # touches two edges
    mask[5:9, 6:12] = mask[12:14, 3:5] = False  # two holes
    mask[7, 8] = True  # an island in one of them
    mask[22:29, 30:40] = True
    pieces = geojson.tissue(mask, (4000, 3000))
    assert len(pieces) == 3
    for piece in pieces:
        assert all(ring[0] == ring[-1] for ring in piece["geometry"]["coordinates"])
        assert piece["properties"] == {"objectType": "annotation", "classification": {"name": "Tissue"}}
    assert sorted(len(piece["geometry"]["coordinates"]) for piece in pieces) == [1, 1, 3]
    found = np.stack([inside(piece, mask.shape, 100) for piece in pieces])
    assert (found.sum(axis=0) == mask).all()


def test_a_plan_is_tissue_and_tiles(tmp_path):
    grid = TileGrid(np.array([[0, 0], [512, 256]]), 256)
    geojson.write_plan(tmp_path / "a" / "b.geojson", np.ones((2, 2), bool), grid, (1000, 900))
    content = json.loads((tmp_path / "a" / "b.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    tissue, *tiles = content["features"]
    assert np.max(tissue["geometry"]["coordinates"][0], axis=0).tolist() == [1000, 900]
    assert [t["geometry"]["coordinates"][0][2] for t in tiles] == [[256, 256], [768, 512]]
    assert geojson.tile(1, 2, 3, {"risk": 0.5})["properties"] == {
        "objectType": "tile",
        "measurements": {"risk": 0.5},
    }

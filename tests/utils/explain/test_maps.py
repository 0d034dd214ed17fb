"""Maps lie on the slide they belong to, and galleries show the patches they name."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_utils.features.store import FeatureMeta
from tests.data_utils.slides.test_wsi import write_slide
from utils.explain.maps import (
    UNKNOWN_SIZE,
    Ground,
    attribution_scale,
    draw_gallery,
    draw_map,
    find_slide,
    size_of,
    slides_below,
)

SIDE, ACROSS = 64, 4
COLOURS = np.random.default_rng(0).permutation(np.arange(10, 250, 15)).reshape(ACROSS, ACROSS)


@pytest.fixture
def slide(tmp_path):
    """A slide of 4 x 4 patches, each of one shade of green."""
    pixels = np.zeros((ACROSS * SIDE, ACROSS * SIDE, 3), np.uint8)
    pixels[..., 1] = np.kron(COLOURS, np.ones((SIDE, SIDE))).astype(np.uint8)
    folder = tmp_path / "images" / "deep"
    folder.mkdir(parents=True)
    write_slide(folder / "S-1.2.tif", pixels)
    return folder / "S-1.2.tif"


@pytest.fixture
def patches():
    """What the patches of the slide say is how green they are."""
    y, x = (index.ravel() * SIDE for index in np.indices((ACROSS, ACROSS)))
    return pd.DataFrame({"slide": "S-1.2", "x": x, "y": y, "size": SIDE, "risk": COLOURS.ravel() / 10.0})


def greens(path):
    """The pure greens of a picture, from the top, each with the mean row of its pixels."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    pure = (picture[..., 0] < 8) & (picture[..., 2] < 8) & (picture[..., 1] > 8)
    values, counts = np.unique(picture[..., 1][pure], return_counts=True)
    large = values[counts > 1_000]
    return {int(v): float(np.nonzero(pure & (picture[..., 1] == v))[0].mean()) for v in large}


def test_a_gallery_shows_the_highest_above_the_lowest(slide, patches, tmp_path):
    ground = Ground.of(patches, slide, 0.5)
    assert ground.slide is not None and ground.extent == (0, ACROSS * SIDE, ACROSS * SIDE, 0)
    draw_gallery(patches, "risk", ground.slide, tmp_path / "gallery.png", count=3)
    found, expected = greens(tmp_path / "gallery.png"), sorted(COLOURS.ravel().tolist())
    nearest = {min(expected, key=lambda green: abs(green - seen)): row for seen, row in found.items()}
    assert sorted(nearest) == expected[:3] + expected[-3:]
    assert max(nearest[v] for v in expected[-3:]) < min(nearest[v] for v in expected[:3])


def test_a_map_lies_on_the_slide(slide, patches, tmp_path):
    ground, scale = Ground.of(patches, slide, 0.5), attribution_scale(patches.risk.to_numpy())
    draw_map(patches, "risk", tmp_path / "map.png", "S-1.2", ground, scale)
    draw_map(patches, "risk", tmp_path / "plain.png", "S-1.2", Ground.of(patches, None, None), scale)
    on_slide, plain = (
        np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("map.png", "plain.png")
    )
    assert on_slide.mean() < plain.mean()  # the slide is dark, paper is white


def test_without_a_readable_slide_there_is_space_for_the_patches(patches, tmp_path, caplog):
    damaged = tmp_path / "S-1.2.svs"
    damaged.write_bytes(b"no slide")
    for path in (damaged, None):
        ground = Ground.of(patches, path, None)
        assert ground.image is None and ground.slide is None
        left, right, bottom, top = ground.extent
        assert left < 0 < ACROSS * SIDE < right and top < 0 < ACROSS * SIDE < bottom
    assert "its maps have no background" in caplog.text and str(damaged) in caplog.text


def test_slides_are_found_by_the_name_of_their_features(slide, tmp_path):
    found = slides_below(tmp_path / "images")
    assert list(found.values()) == [slide]
    assert find_slide(found, "S-1.2") == slide and find_slide(found, "S-1") is None
    (tmp_path / "empty").mkdir()
    for folder in (None, tmp_path / "absent", tmp_path / "empty"):
        assert slides_below(folder) == {}


@pytest.mark.parametrize(
    ("stated", "corners", "expected"),
    [(512, [[0, 0], [64, 0]], 512), (None, [[0, 0], [64, 0], [320, 0]], 64), (None, [[0, 0]], UNKNOWN_SIZE)],
)
def test_the_side_of_a_patch(stated, corners, expected):
    assert size_of(FeatureMeta(256, stated, None, None, "test"), np.array(corners)) == expected

"""Resolution, tissue, grid and pixels of generated slides."""

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from openslide import OpenSlide
from PIL import Image

from data_utils.slides import wsi
from data_utils.slides.opening import SlideError, open_slide

GLASS = (243, 242, 244)


def write_slide(path, image, mpp=0.5, downsamples=(1, 2, 4), description=None, **tags):
    """Writes ``[h, w, 3]`` uint8 as a pyramid that OpenSlide takes for Aperio's."""
    if description is None:
        description = "Aperio|AppMag = 20" + (f"|MPP = {mpp}" if mpp else "")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as writer:
        for factor in downsamples:
            height, width = image.shape[0] // factor, image.shape[1] // factor
            level = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
            writer.write(
                level.mean(axis=(1, 3)).round().astype(np.uint8),
                tile=(256, 256),
                photometric="rgb",
                compression="deflate",
                description=description,
                metadata=None,
                **tags,
            )
    return path


def painted(columns, rows, cell, margin=0):
    """Cells of distinct colours; the colour of cell (column, row) is ``colour(column, row)``."""
    image = np.full((rows * cell + margin, columns * cell + margin, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            image[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = colour(column, row)
    return image


def colour(column, row):
    return 40 + 16 * column, 30 + 20 * row, 90 + 7 * (column + row)


def tissue_slide(side=1024, box=(256, 256, 768, 512), seed=0):
    """Glass with scanner noise and one box (left, upper, right, lower) of textured pink tissue."""
    generator = np.random.default_rng(seed)
    image = np.tile(np.array(GLASS, float), (side, side, 1))
    left, upper, right, lower = box
    image[upper:lower, left:right] = (205, 120, 170)
    nuclei = generator.random((side // 8, side // 8)).repeat(8, 0).repeat(8, 1)[upper:lower, left:right] < 0.3
    image[upper:lower, left:right][nuclei] = (90, 60, 140)
    return (image + generator.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------- pixels
@pytest.mark.parametrize("downsamples", [(1,), (1, 2, 4), (1, 3)])
@pytest.mark.parametrize("mpp", [0.125, 0.25, 0.2503, 0.3, 0.499, 0.5, 0.55, 1.0])
def test_tiles_show_exactly_their_square(tmp_path, mpp, downsamples):
    """Every cell of the grid has its own colour: a tile that is off by a pixel mixes two."""
    cell = round(64 * 0.5 / mpp)
    path = write_slide(tmp_path / "a.svs", painted(5, 4, cell), mpp, downsamples)
    with open_slide(path) as slide:
        whole = np.ones((8, 8), bool)
        grid = wsi.tile_grid(whole, slide.dimensions, mpp, 64, 0.5, min_tissue=0.0)
        assert grid.size == cell and len(grid.coords) == 20
        for x, y in grid.coords:
            tile = np.asarray(wsi.read_tile(slide, (int(x), int(y)), cell, 64)).astype(int)
            assert tile.shape == (64, 64, 3)
            wanted = np.array(colour(x // cell, y // cell))
            # Where cells end inside pixels of a lower level, these mix neighbours, whichever way one reads.
            edge = 0 if all(cell % factor == 0 for factor in downsamples) else 2
            assert np.abs(tile[edge : 64 - edge, edge : 64 - edge] - wanted).max() <= 1


def test_a_sharp_edge_stays_where_it_is(tmp_path):
    """The middle of the tile is the middle of its square, at every mpp, to a fraction of a pixel."""
    for mpp in (0.25, 0.33, 0.5, 1.0):
        cell = round(64 * 0.5 / mpp)
        image = np.full((4 * cell, 4 * cell, 3), 255, np.uint8)
        image[:, : cell + cell // 2] = 0  # an edge inside the second column
        path = write_slide(tmp_path / f"{mpp}.svs", image, mpp)
        with open_slide(path) as slide:
            tile = np.asarray(wsi.read_tile(slide, (cell, cell), cell, 64), float)[32, :, 0]
        edge = (255 - tile).sum() / 255  # number of black pixels from the left
        assert edge == pytest.approx(64 * (cell // 2) / cell, abs=0.3), mpp


def test_no_drift_where_levels_dropped_odd_pixels(tmp_path):
    """Taken by its sizes, this level is smaller by 4.013: at the far end that would be 12 px off."""
    image = np.full((515, 4003, 3), 255, np.uint8)
    image[:, 3840:3968] = 0
    path = write_slide(tmp_path / "a.svs", image, 0.125, (1, 4))
    with open_slide(path) as slide:
        assert slide.level_downsamples[1] > 4.01
        tile = np.asarray(wsi.read_tile(slide, (3712, 256), 256, 64), float)[32, :, 0]
    assert (255 - tile).sum() / 255 == pytest.approx(32, abs=0.1)
    assert (255 - tile[:32]).sum() / 255 == pytest.approx(0, abs=0.5)
    assert np.all(tile[36:-1] == 0)


def test_lower_levels_are_used_for_coarse_tiles(tmp_path, monkeypatch):
    path = write_slide(tmp_path / "a.svs", painted(8, 8, 128), 0.25)
    levels = []
    original = OpenSlide.read_region

    def spy(self, location, level, size):
        levels.append((level, size))
        return original(self, location, level, size)

    monkeypatch.setattr(OpenSlide, "read_region", spy)
    with open_slide(path) as slide:
        for size in (64, 128, 130, 256, 512):
            wsi.read_tile(slide, (128, 256), size, 64)
    assert levels == [(0, (64, 64)), (1, (64, 64)), (1, (65, 65)), (2, (64, 64)), (2, (128, 128))]


def test_outside_of_the_scan_is_white(tmp_path):
    path = write_slide(tmp_path / "a.svs", np.zeros((300, 300, 3), np.uint8))
    with open_slide(path) as slide:
        region = np.asarray(wsi.read_region(slide, (-50, -50), (100, 100), (100, 100)))
    assert (region[:50] == 255).all() and (region[50:, 50:] == 0).all()


@pytest.mark.parametrize("block", [64, 2048])
@pytest.mark.parametrize("downsamples", [(1,), (1, 4)])
def test_overview_in_blocks_equals_the_slide_made_small(tmp_path, monkeypatch, downsamples, block):
    monkeypatch.setattr(wsi, "OVERVIEW_BLOCK", block)
    image = tissue_slide(1000, (200, 300, 700, 900))
    path = write_slide(tmp_path / "a.svs", image, 0.5, downsamples)
    with open_slide(path) as slide:
        overview = wsi.read_overview(slide, 0.5, 8.0)
    wanted = Image.fromarray(image).resize((62, 62), Image.Resampling.BOX)
    assert overview.shape == (62, 62, 3)
    difference = np.abs(overview.astype(float) - np.asarray(wanted, float))
    assert difference.mean() < 3 and np.median(difference) <= 2


def test_overview_is_never_finer_than_the_slide(tmp_path):
    image = painted(5, 5, 20)
    with open_slide(write_slide(tmp_path / "a.svs", image, 16.0, (1,))) as slide:
        assert np.array_equal(wsi.read_overview(slide, 16.0, 8.0), image)


# ---------------------------------------------------------------------------- grid
@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 12), st.integers(2, 12)),
    pixel=st.integers(1, 9),
    size=st.integers(1, 40),
    min_tissue=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_grid_equals_counting_pixels(shape, pixel, size, min_tissue, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.5
    large = mask.repeat(pixel, 0).repeat(pixel, 1)
    dimensions = large.shape[1], large.shape[0]
    wanted = [
        (x, y)
        for y in range(0, large.shape[0] - size + 1, size)
        for x in range(0, large.shape[1] - size + 1, size)
        if large[y : y + size, x : x + size].mean() >= min_tissue - 1e-6
    ]
    if not wanted:
        with pytest.raises(SlideError):
            wsi.tile_grid(mask, dimensions, 0.5, size, 0.5, min_tissue)
        return
    grid = wsi.tile_grid(mask, dimensions, 0.5, size, 0.5, min_tissue)
    assert grid.coords.tolist() == [list(corner) for corner in wanted]
    assert grid.coords.dtype == np.int64 and grid.size == size


def test_a_slide_coarser_than_the_tiles_is_enlarged():
    """A slide of 1000 x 1000 px at 1 mpp holds 7 x 7 tiles of 256 px at 0.5 mpp."""
    grid = wsi.tile_grid(np.ones((125, 125), bool), (1000, 1000), 1.0, 256, 0.5, 0.1)
    assert grid.size == 128 and len(grid.coords) == 49 and grid.coords.max() == 6 * 128


@pytest.mark.parametrize(("dimensions", "mpp"), [((255, 900), 0.5), ((900, 255), 0.5), ((90, 90), 300.0)])
def test_slides_smaller_than_a_tile(dimensions, mpp):
    with pytest.raises(SlideError, match="smaller than one tile"):
        wsi.tile_grid(np.ones((9, 9), bool), dimensions, mpp, 256, 0.5, 0.1)


# ---------------------------------------------------------------------------- preview
def test_preview_shows_tissue_border_and_tiles(tmp_path):
    overview = np.full((64, 64, 3), 255, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    grid = wsi.tile_grid(mask, (1024, 1024), 0.5, 256, 0.5, 0.5)
    wsi.save_preview(tmp_path / "p" / "a.png", overview, mask, grid, (1024, 1024))
    picture = np.asarray(Image.open(tmp_path / "p" / "a.png")).astype(int)
    assert picture.shape[0] >= 900
    blue = (picture[..., 2] > picture[..., 0] + 100).any(axis=1)
    corner = grid.coords.min(axis=0)[1] * picture.shape[0] // 1024
    assert blue[corner] and not blue[: corner - 2].any()
    assert (picture[..., 1] > picture[..., 0] + 100).any()


def test_damaged_pixels_raise(tmp_path):
    path = write_slide(tmp_path / "a.svs", tissue_slide(600, (0, 0, 600, 600)))
    damage(path)
    with open_slide(path) as slide, pytest.raises(openslide.OpenSlideError):
        wsi.read_tile(slide, (0, 0), 256, 256)


def damage(path):
    """Overwrites the pixels of level 0; the file still opens and its lower levels can be read."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    content = bytearray(path.read_bytes())
    for offset, count in places:
        content[offset : offset + count] = b"\xaa" * count
    path.write_bytes(content)

"""Rows of the reading benchmarks, at tiny sizes."""

import re

import numpy as np
import openslide
import pytest
import tifffile

from tests.benchmarks import measuring, reading
from tests.benchmarks.run import parts


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Pieces of 960 pixels in two levels, and no matrix products beside."""
    monkeypatch.setattr(measuring, "yardstick", lambda device: 1.0)
    monkeypatch.setattr(reading, "PIECE", 960)
    monkeypatch.setattr(reading, "LEVELS", (1, 4))


def number(pattern, row):
    assert row["seconds"] > 0 and row["peak_gib"] > 0
    return float(re.search(pattern, row["note"])[1].replace(",", ""))


def test_scans_are_what_scanners_write(tmp_path):
    path = tmp_path / "a.svs"
    reading.write_scan(path, 2, 1)
    with tifffile.TiffFile(path) as file:
        assert {page.compression.name for page in file.pages} == {"JPEG"}
        assert {page.photometric.name for page in file.pages} == {"YCBCR"}
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((1920, 960), (480, 240))
        assert slide.properties[openslide.PROPERTY_NAME_MPP_X] == "0.25"
        left, right = (np.asarray(slide.read_region((x, 0), 0, (960, 960)), int) for x in (0, 960))
        overview = np.asarray(slide.read_region((0, 0), 1, (240, 240)), int)
    assert (left == right).all() and left[..., :3].std() > 10
    shrunk = left.reshape(240, 4, 240, 4, 4).mean(axis=(1, 3))
    assert np.abs((shrunk - overview).mean(axis=(0, 1))).max() < 1  # same colours
    shifts = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
    errors = [np.abs(shrunk - np.roll(overview, shift, (0, 1))).mean() for shift in shifts]
    assert errors[0] < 0.7 * min(errors[1:])  # same place; JPEG costs the rest


@pytest.mark.parametrize("workers", [0, 1])
def test_tiles(workers):
    row = reading.slide_tiles("gigapath", workers, 1, pieces=(2, 2))
    assert number(r"([\d.]+) tiles$", row) == 9 and number(r"^(\d+) tiles/s", row) > 0


@pytest.mark.parametrize("name", reading.READERS)
def test_readers(name):
    row = reading.reader(name, 1, pieces=(1, 1), size=320)
    assert number(r"([\d.]+) tiles$", row) == 9 and number(r"^(\d+) tiles/s", row) > 0


def test_readers_read_the_same(tmp_path):
    """Halving by 2 from whole pixels: nothing is left for the readers to differ in."""
    reading.write_scan(tmp_path / "a.svs", 1, 1)
    found = []
    for opened, read in reading.READERS.values():
        with opened(tmp_path / "a.svs") as slide:
            found.append(np.asarray(read(slide, (320, 320), 320, 160)))
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_extraction():
    row = reading.extraction(1000.0, 0, 1, slides=2, pieces=(2, 2))
    assert number(r"(\d+) tiles$", row) == 18 and 0 < number(r"waiting for tiles (\d+) %", row) <= 100


@pytest.mark.parametrize(("cache", "workers", "first"), [("none", 1, False), ("ram", 0, True)])
def test_loader(cache, workers, first):
    row = reading.loader_epoch(cache, workers, first, 1, cases=2, patches=16)
    assert number(r"^([\d,]+) patches/s", row) == pytest.approx(32 / row["seconds"], abs=1)


def test_dataset_items():
    assert number(r"^([\d,]+) patches/s", row := reading.dataset_item(32, 8, 1)) == pytest.approx(
        8 / row["seconds"], abs=1
    )
    assert reading.dataset_item_without_image(1)["seconds"] > 0


def test_table_has_these_rows():
    assert reading.PARTS.keys() <= parts().keys()

"""Resolution of slides: stated in many ways, by the user, assumed, contradicting, too coarse."""

import logging

import numpy as np
import pytest
import tifffile

from data_utils.slides import wsi
from data_utils.slides.opening import SlideError, open_slide
from data_utils.slides.resolution import (
    Resolution,
    StatedMpp,
    check_enlargement,
    slide_resolution,
    stated_resolution,
)
from data_utils.slides.tile_reading import TileRecipe, plan_slide
from data_utils.slides.tissue import TissueRule
from tests.data_utils.slides.test_wsi import painted, tissue_slide, write_slide
from utils.files import FileError

RECIPE = TileRecipe("colours", 64, 0.5, 56, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def resolution(path, stated=None):
    with open_slide(path) as slide:
        return slide_resolution(path, slide.properties, stated or StatedMpp())


# ---------------------------------------------------------------------------- what slides state
@pytest.mark.parametrize(
    ("properties", "mpp", "assumed"),
    [
        ({"openslide.mpp-x": "0.2527", "aperio.AppMag": "20"}, 0.2527, False),
        ({"openslide.mpp-x": "0,5"}, 0.5, False),
        ({"aperio.MPP": "0.499"}, 0.499, False),
        ({"tiff.XResolution": "20000", "tiff.ResolutionUnit": "centimeter"}, 0.5, False),
        ({"tiff.XResolution": "50800", "tiff.ResolutionUnit": "INCH"}, 0.5, False),
        ({"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch", "aperio.AppMag": "20"}, 0.5, True),
        ({"openslide.mpp-x": "352.8"}, 0.25, True),
        ({"openslide.objective-power": "20"}, 0.5, True),
        ({"openslide.mpp-x": "unknown", "openslide.objective-power": "0"}, 0.25, True),
        ({"openslide.mpp-x": "-1", "tiff.XResolution": "nan", "tiff.ResolutionUnit": "inch"}, 0.25, True),
        ({}, 0.25, True),
    ],
)
def test_resolution_of_properties(tmp_path, properties, mpp, assumed):
    found = slide_resolution(tmp_path / "a.svs", properties, StatedMpp())
    assert (found.mpp, found.assumed) == (pytest.approx(mpp), assumed)
    assert found.source


def test_resolution_of_files(tmp_path):
    image = painted(4, 4, 128)
    plain = {"downsamples": (1,), "description": ""}
    cases = [
        (write_slide(tmp_path / "a.svs", image, mpp=0.499), 0.499, "openslide.mpp-x"),
        (write_slide(tmp_path / "b.svs", image, mpp=None), 0.5, "of a 20x objective"),
        (write_slide(tmp_path / "c.svs", image, description="Aperio"), 0.25, "as most slides at 40x"),
        (
            write_slide(
                tmp_path / "d.tif", image, resolution=(1e4, 1e4), resolutionunit="CENTIMETER", **plain
            ),
            1.0,
            "openslide.mpp-x",
        ),
    ]
    for path, mpp, source in cases:
        found = resolution(path)
        assert (found.mpp, found.source) == (pytest.approx(mpp), source), path.name


@pytest.mark.parametrize(
    ("size", "unit"),
    [(0.4, None), (0.4, "\u00b5m"), (400, "nm"), (4e-4, "mm"), (4e-5, "cm"), (4000, "\u00c5"), (4e-7, "m")],
)
def test_ome_units(tmp_path, size, unit):
    units = {} if unit is None else {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size, **units}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, painted(4, 4, 128), tile=(256, 256), photometric="rgb", metadata=metadata)
    assert resolution(path) == Resolution(pytest.approx(0.4), "OME PhysicalSizeX", height=pytest.approx(0.4))


def ome(*pixels, head="<?xml version='1.0' encoding='UTF-8'?>"):
    entries = "".join(f"<Image><Pixels {entry}/></Image>" for entry in pixels)
    text = f"{head}<OME xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06'>{entries}</OME>"
    return {"tiff.ImageDescription": text, "openslide.level[0].width": "2000"}


def test_ome_goes_before_tags_that_an_editor_wrote():
    tags = {"openslide.mpp-x": "8.4667", "tiff.XResolution": "3000", "tiff.ResolutionUnit": "inch"}
    found = stated_resolution(tags | ome("SizeX='2000' PhysicalSizeX='0.5'"))
    assert (found.mpp, found.source) == (0.5, "OME PhysicalSizeX")


def test_ome_of_the_slide_not_of_its_label():
    found = stated_resolution(ome("SizeX='300' PhysicalSizeX='9'", "SizeX='2000' PhysicalSizeX='0.5'"))
    assert found.mpp == 0.5


@pytest.mark.parametrize(
    "properties",
    [
        ome("SizeX='2000'"),
        ome("SizeX='2000' PhysicalSizeX='0.5' PhysicalSizeXUnit='pixel'"),
        ome("SizeX='2000' PhysicalSizeX='1e9'"),
        ome("SizeX='2000' PhysicalSizeX='0.5'", head="<!DOCTYPE a [<!ENTITY b 'c'>]>"),
        {"tiff.ImageDescription": "<OME><Pixels PhysicalSizeX='0.5'>"},
    ],
)
def test_ome_that_says_nothing(properties):
    assert stated_resolution(properties) is None


# ---------------------------------------------------------------------------- what the user states
def write_table(path, *rows):
    path.write_text("\n".join(["slide,mpp", *rows]) + "\n")
    return path


def test_what_the_user_states(tmp_path, caplog):
    slides = [
        write_slide(tmp_path / "tagged.svs", painted(4, 4, 128), 0.5),
        write_slide(tmp_path / "bare.svs", painted(4, 4, 128), None),
        write_slide(tmp_path / "named.8f2c1d5e-1111-2222-3333-444455556666.svs", painted(4, 4, 128), 0.5),
    ]
    table = write_table(tmp_path / "mpp.csv", "named,0.25", "elsewhere.svs,0.3")
    stated = StatedMpp.read(0.33, table, slides)
    assert "names 1 slides that are not here: elsewhere.svs" in caplog.text
    found = [resolution(slide, stated) for slide in slides]
    assert [(entry.mpp, entry.source, entry.assumed) for entry in found] == [
        (0.5, "openslide.mpp-x", False),
        (0.33, "--mpp", False),
        (0.25, "--mpp_csv", False),
    ]
    assert "states 0.5 micrometres per pixel (openslide.mpp-x): taking 0.25 from --mpp_csv" in caplog.text
    assert "assuming" not in caplog.text
    bare = StatedMpp.read(None, write_table(tmp_path / "mpp.csv", "bare.svs,0.2"), slides)
    assert resolution(slides[1], bare).mpp == 0.2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,0"], "has mpp '0' for a"),
        (["a,250"], "has mpp '250' for a; write a number from 0.05 to 20"),
        (["a,"], "has mpp '' for a"),
        (["a,0.5", "a,0.25"], "has two resolutions for a"),
    ],
)
def test_wrong_tables(tmp_path, rows, message):
    with pytest.raises(FileError, match=message):
        StatedMpp.read(None, write_table(tmp_path / "mpp.csv", *rows), [])


def test_table_without_its_columns(tmp_path):
    (tmp_path / "mpp.csv").write_text("name,mpp\na,0.5\n")
    with pytest.raises(FileError, match=r"has no column slide, only \['name', 'mpp'\]"):
        StatedMpp.read(None, tmp_path / "mpp.csv", [])
    with pytest.raises(FileNotFoundError):
        StatedMpp.read(None, tmp_path / "absent.csv", [])


# ---------------------------------------------------------------------------- contradictions
def test_pixels_that_are_not_square(tmp_path, caplog):
    def of(width, height):
        return slide_resolution(
            tmp_path / "a.svs", {"openslide.mpp-x": str(width), "openslide.mpp-y": str(height)}, StatedMpp()
        )

    assert of(0.5, 0.501).mpp == 0.5 and not caplog.text
    assert of(0.5, 0.54).mpp == pytest.approx(np.sqrt(0.5 * 0.54))
    assert "its pixels are 0.5 micrometres wide and 0.54 high" in caplog.text
    with pytest.raises(SlideError, match=r"0\.5 micrometres wide and 0\.25 high.*--mpp_csv"):
        of(0.5, 0.25)
    tags = {"tiff.XResolution": "20000", "tiff.YResolution": "10000", "tiff.ResolutionUnit": "centimeter"}
    with pytest.raises(SlideError, match="wide and 1 high"):
        slide_resolution(tmp_path / "a.svs", tags, StatedMpp())
    with pytest.raises(SlideError, match="wide and 1 high"):
        slide_resolution(
            tmp_path / "a.svs", ome("SizeX='2000' PhysicalSizeX='0.5' PhysicalSizeY='1'"), StatedMpp()
        )
    assert slide_resolution(tmp_path / "a.svs", tags, StatedMpp(by_slide={"a": 0.5})).mpp == 0.5


@pytest.mark.parametrize(
    ("mpp", "outcome"), [(0.5, "quiet"), (0.75, "quiet"), (1.0, "warns"), (2.0, "warns"), (2.2, "no")]
)
def test_slides_coarser_than_their_tiles(tmp_path, caplog, mpp, outcome):
    caplog.set_level(logging.WARNING)
    found = Resolution(mpp, "openslide.mpp-x")
    if outcome == "no":
        with pytest.raises(
            SlideError, match=r"2\.2 micrometres per pixel .*4\.4 times coarser.*the most is 4 times"
        ):
            check_enlargement(tmp_path / "a.svs", found, 0.5)
        return
    check_enlargement(tmp_path / "a.svs", found, 0.5)
    assert ("times coarser than tiles at 0.5; its tiles are enlarged" in caplog.text) == (outcome == "warns")


def test_levels_that_contradict_level_0_are_not_read(tmp_path, caplog):
    """The second level shows the upper half only, at a size that is no smaller level 0."""
    image = tissue_slide(1024, (256, 256, 768, 512))
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as writer:
        for level in (image, image[:512:2, ::2], image[::4, ::4]):
            writer.write(
                level,
                tile=(64, 64),
                photometric="rgb",
                description="Aperio|AppMag = 20|MPP = 0.5",
                metadata=None,
            )
    sound = write_slide(tmp_path / "b.svs", image, 0.5, (1,))
    plans = [plan_slide(file, RECIPE, TissueRule(min_tissue=0.5)) for file in (path, sound)]
    assert np.array_equal(plans[0].grid.coords, plans[1].grid.coords)
    assert "a.svs: level" in caplog.text and "(512 x 256 px, factor 3)" in caplog.text
    assert "b.svs" not in caplog.text
    with open_slide(path) as one, open_slide(sound) as other:
        tiles = [np.asarray(wsi.read_tile(slide, (256, 384), 192, 64)) for slide in (one, other)]
    assert np.abs(tiles[0].astype(float) - tiles[1]).mean() < 1

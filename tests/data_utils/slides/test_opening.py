"""Why a file is no slide: each fault has words and a remedy of its own."""

import gzip
import os
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from openslide import OpenSlideError
from PIL import Image

from data_utils.features.store import read_features
from data_utils.slides import opening
from data_utils.slides.extraction import extract_cohort
from data_utils.slides.finding import find_slides, slide_name
from data_utils.slides.opening import SlideError, check_declared_sizes, describe, open_slide, why_unreadable
from tests.data_utils.slides.dicom_slide import write_dicom_level
from tests.data_utils.slides.test_extraction import RECIPE, MeanColour, report
from tests.data_utils.slides.test_wsi import tissue_slide, write_slide

IMAGE = tissue_slide(256, (0, 0, 256, 192))
HALF_A_MICROMETRE = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
LEICA = """<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">
<collection sizeX="128001" sizeY="128001"><image><creationDate/><device model="x"/>
<pixels sizeX="256" sizeY="256"><dimension sizeX="256" sizeY="256" r="0" ifd="0"/></pixels>
<view sizeX="128000" sizeY="128000" offsetX="0" offsetY="0"/>
<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>
<illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings>
</image></collection></scn>"""


def reason(path):
    with pytest.raises(SlideError) as error:
        open_slide(path)
    text = str(error.value)
    assert text.startswith("cannot be opened: ")
    return text


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


# ---------------------------------------------------------------------------- faults
def test_missing(tmp_path):
    assert "does not exist" in reason(tmp_path / "absent.svs")


def test_permission(tmp_path, monkeypatch):
    path = write_slide(tmp_path / "a.svs", IMAGE)

    def refused(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(opening, "OpenSlide", refused)
    monkeypatch.setattr(type(path), "open", refused)  # root may read everything
    assert "permission denied" in reason(path) and "download" not in reason(path)


def test_a_disk_that_is_away(tmp_path, monkeypatch):
    path = write_slide(tmp_path / "a.svs", IMAGE)

    def broken(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(type(path), "open", broken)
    assert why_unreadable(path, OpenSlideError("x")).startswith("Input/output error; see whether its disk")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "JPEG2000", "WEBP"])
def test_other_images(tmp_path, kind):
    Image.fromarray(IMAGE).save(tmp_path / "a.tif", format=kind)
    text = reason(tmp_path / "a.tif")
    assert (
        "convert it to a tiled TIFF" in text and "download" not in text and "whatever its name says" in text
    )


def test_strips(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb")
    assert "a TIFF in strips" in reason(tmp_path / "a.tif") and "convert" in reason(tmp_path / "a.tif")


def test_cut_off(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb")
    size = path.stat().st_size
    text = reason(cut(path, 0.5))
    assert f"cut off: it has {size // 2:,} of at least {size:,} bytes" in text and "download" in text


def test_a_directory_behind_the_end(tmp_path):
    path = write_slide(tmp_path / "a.svs", IMAGE)
    text = reason(cut(path, 0.01))
    assert "cut off" in text and "download" in text and "convert" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", "holds text and no image"),
        (b"version https://git-lfs.github.com/spec/v1", "holds text and no image"),
        (gzip.compress(b"slide", mtime=0), "packed (gzip); unpack it"),
        (b"PK\x03\x04zip", "packed (zip); unpack it"),
        (b"\0\1\2\3" * 40, "damaged, or of a kind that OpenSlide does not read"),
        (b"II*\0" + bytes(range(200)), "damaged or cut off"),
    ],
)
def test_contents(tmp_path, content, message):
    (tmp_path / "a.svs").write_bytes(content)
    assert message in reason(tmp_path / "a.svs")


def test_slides_of_several_files_of_which_some_are_missing(tmp_path):
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"\xff\xd8\xff")  # a picture of the label is all that this file holds
    assert "the folder a with Slidedat.ini is not beside it; copy it" in reason(path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Slidedat.ini").touch()
    assert "a file of the slide is missing or damaged" in reason(path)
    write_uncompressed_hamamatsu(tmp_path / "b.vmu")
    (tmp_path / "a.ngr").unlink()
    text = reason(tmp_path / "b.vmu")
    assert "a file of the slide is missing or damaged" in text and "a.ngr" in text and "text" not in text


def test_a_folder_of_other_dicom_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "ct.dcm").write_bytes(bytes(128) + b"DICM")
    assert "none of its DICOM files is that of a slide" in reason(tmp_path / "a")


@pytest.mark.parametrize(
    ("levels", "tile", "message"),
    [
        ([(300_000, 300_000), (75_000, 75_000)], 4096, None),
        ([(2**31 - 1, 1000)], 256, "declares 2,147,483,647 x 1,000 pixels at level 0"),
        ([(1_000_000, 1_000_000)], 256, "pixels at level 0"),
        ([(4096, 4096), (5_000_000, 10)], 256, "pixels at level 1"),
        ([(4096, 4096)], 2**15, "declares tiles of 32,768 x 32,768 pixels"),
    ],
)
def test_declared_sizes(levels, tile, message):
    sizes = {f"openslide.level[{n}].tile-{side}": str(tile) for n in range(2) for side in ("width", "height")}
    slide = SimpleNamespace(level_dimensions=levels, properties=sizes)
    if message is None:
        check_declared_sizes(slide)
    else:
        with pytest.raises(SlideError, match=message):
            check_declared_sizes(slide)


def test_descriptions_are_one_line_of_text(tmp_path):
    path = tmp_path / "absent.svs"
    assert describe(SlideError("no\n tissue"), path) == "no tissue"
    assert describe(MemoryError("so large"), path) == "MemoryError: so large"
    assert describe(OpenSlideError("x"), path).startswith("OpenSlideError: it does not exist")
    assert describe(ValueError(os.fsdecode(b"\xe4")), path) == "ValueError: \\xe4"


# ---------------------------------------------------------------------------- formats
def write_tiff(path, **options):
    tifffile.imwrite(path, IMAGE, tile=(64, 64), photometric="rgb", compression="deflate", **options)


def write_uncompressed_hamamatsu(path):
    """``.vmu``: a text that names ``.ngr`` files of 16-bit columns, 12 bits of them used."""
    keys = {"NoLayers": 1, "ImageFile": "a.ngr", "MapFile": "m.ngr", "MacroImage": "macro.jpg"}
    keys |= {"PhysicalWidth": 128_000, "PhysicalHeight": 128_000, "BitsPerPixel": 36, "PixelOrder": "RGB"}
    keys |= {"SourceLens": 20}
    lines = ["[Uncompressed Virtual Microscope Specimen]", *(f"{key}={value}" for key, value in keys.items())]
    path.write_text("\n".join(lines) + "\n")
    for name, pixels in (("a.ngr", IMAGE), ("m.ngr", IMAGE[::4, ::4])):
        height, width = pixels.shape[:2]
        header = b"GN\0\0" + np.array([width, height, width, 0, 0, 28], "<i4").tobytes()[:24]
        (path.parent / name).write_bytes(header[:28] + (pixels.astype("<u2") << 4).tobytes())
    Image.fromarray(IMAGE).save(path.parent / "macro.jpg")


def write_format(path):
    """A slide of 256 x 256 pixels as the suffix says, where that can be written here; else a tiled TIFF."""
    suffix = path.suffix.lower()
    if suffix == ".svs":
        write_slide(path, IMAGE, 0.5, (1,))
    elif suffix == ".dcm":
        write_dicom_level(path.with_suffix("") / "1.dcm", IMAGE, 0.5, "1.2.3")
    elif suffix == ".scn":
        write_tiff(path, description=LEICA, metadata=None, **HALF_A_MICROMETRE)
    elif suffix == ".vmu":
        write_uncompressed_hamamatsu(path)
    else:
        write_tiff(path, metadata=None, **HALF_A_MICROMETRE)


@pytest.mark.parametrize(
    "suffix", [".svs", ".tif", ".TIFF", ".ndpi", ".SCN", ".bif", ".svslide", ".dcm", ".vmu"]
)
def test_every_suffix_is_extracted(tmp_path, suffix):
    (tmp_path / "slides").mkdir()
    write_format(tmp_path / "slides" / f"P1.2024{suffix}")
    found = find_slides(tmp_path / "slides")
    assert [slide_name(path) for path in found.slides] == ["P1.2024"] and not found.faults
    extract_cohort(found.slides, MeanColour(), RECIPE, tmp_path / "out", min_tissue=0.0)
    (row,) = report(tmp_path / "out" / "extraction_report.csv").itertuples()
    assert (row.status, row.tiles, row.mpp) == ("done", 16, 0.5), row.reason
    slide = read_features(tmp_path / "out" / "P1.2024.h5")
    for features, (x, y) in zip(slide.features, slide.coords, strict=True):
        tile = IMAGE[y : y + 64, x : x + 64]
        assert features == pytest.approx(tile[8:-8, 8:-8].mean(axis=(0, 1)), abs=0.6)

"""Direct reading of JPEG tiles against OpenSlide: the same pixels, or OpenSlide itself."""

import os
from ctypes import ArgumentError
from io import BytesIO

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openslide import OpenSlide, OpenSlideError
from PIL import Image

from data_utils.slides import jpeg_slide
from data_utils.slides.jpeg_slide import DIRECT, OPENSLIDE, JpegSlide, fastest, reader_name
from data_utils.slides.wsi import read_pixels

TILE = 64
SIZE = (300, 210)  # no whole number of tiles
COMPRESSION, PHOTOMETRIC, JPEG_TABLES = 259, 262, 347
RGB, YCBCR = 2, 6
TABLES = (0xDB, 0xC4)  # quantisation and Huffman tables


def encoded(tile, photometric, subsampling):
    """A JPEG stream of a tile; for RGB without any colour transform."""
    buffer = BytesIO()
    options = {"quality": 80, "subsampling": subsampling}
    options |= {"keep_rgb": True} if photometric == RGB else {}
    Image.fromarray(tile).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def split(stream):
    """Tables of a JPEG stream as a stream of their own, and what is left of it, as TIFF files share tables."""
    tables, rest, place = b"", b"", 2
    while stream[place + 1] != 0xDA:
        length = 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
        segment = stream[place : place + length]
        if segment[1] in TABLES:
            tables += segment
        elif segment[1] not in (0xE0, 0xEE):  # JFIF and Adobe would tell the colours
            rest += segment
        place += length
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + stream[place:]


def write(path, photometric=YCBCR, subsampling="4:2:0", shared=False, aperio=True, factors=(1, 2), empty=()):
    """A tiled JPEG pyramid; ``empty``: numbers of the tiles of level 0 that have no data."""
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 255, (30, 40, 3), dtype=np.uint8))
    picture = noise.resize(SIZE, Image.Resampling.BICUBIC)
    with tifffile.TiffWriter(path) as writer:
        for factor in factors:
            level = np.asarray(picture.resize([side // factor for side in SIZE]))
            height, width = (-(-side // TILE) * TILE for side in level.shape[:2])
            padded = np.full((height, width, 3), 200, np.uint8)
            padded[: level.shape[0], : level.shape[1]] = level
            streams = [
                encoded(padded[y : y + TILE, x : x + TILE], photometric, subsampling)
                for y in range(0, height, TILE)
                for x in range(0, width, TILE)
            ]
            tables = split(streams[0])[0]
            if shared:
                streams = [split(stream)[1] for stream in streams]
            if factor == 1:
                streams = [b"" if number in empty else stream for number, stream in enumerate(streams)]
            writer.write(
                iter(streams),
                shape=level.shape,
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="deflate",  # tifffile wants a codec for JPEG; corrected below
                description="Aperio|AppMag = 40|MPP = 0.25" if aperio else "",
                metadata=None,
                extratags=[(JPEG_TABLES, 7, len(tables), tables, True)] if shared else [],
            )
    with tifffile.TiffFile(path, mode="r+") as file:
        for page in file.pages:
            page.tags[COMPRESSION].overwrite(7)
            page.tags[PHOTOMETRIC].overwrite(photometric)
    return path


def assert_same(direct, slide, corner, level, size):
    """Colours and what was scanned are those that OpenSlide gives."""
    found, scanned = read_pixels(direct, corner, level, size)
    expected = slide.read_region(corner, level, size)
    white = Image.new("RGB", size, "white")
    white.paste(expected, mask=expected.getchannel("A"))
    assert found.mode == "RGB" and np.array_equal(np.asarray(found), np.asarray(white))
    alpha = np.asarray(expected)[..., 3]
    assert (alpha == 255).all() if scanned is None else np.array_equal(np.asarray(scanned), alpha)


LAYOUTS = [
    {},
    {"subsampling": "4:4:4"},
    {"subsampling": "4:2:2", "shared": True},
    {"photometric": RGB, "subsampling": "4:4:4"},
    {"photometric": RGB, "subsampling": "4:4:4", "shared": True},
    {"aperio": False, "factors": (1,)},
    {"shared": True, "aperio": False},
]


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def pair(request, tmp_path_factory):
    """A slide read directly, and by OpenSlide."""
    path = write(tmp_path_factory.mktemp("slides") / "slide.tif", **request.param)
    with fastest(path) as direct, OpenSlide(path) as slide:
        yield direct, slide


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_region_has_the_pixels_of_openslide(pair, data):
    direct, slide = pair
    assert isinstance(direct, JpegSlide) and reader_name(direct) == DIRECT
    level = data.draw(st.integers(0, slide.level_count - 1))
    corner = tuple(data.draw(st.integers(-20, side + 20)) for side in SIZE)
    size = tuple(data.draw(st.integers(1, 150)) for _ in SIZE)
    assert_same(direct, slide, corner, level, size)


def test_everything_inside_is_read_directly(pair):
    direct, slide = pair
    for level, (width, height) in enumerate(slide.level_dimensions):
        assert direct.decode((0, 0), level, (width, height)) is not None
        assert_same(direct, slide, (0, 0), level, (width, height))


def test_what_openslide_says_of_the_slide_is_unchanged(pair):
    direct, slide = pair
    for name in ("properties", "dimensions", "level_count", "level_dimensions", "level_downsamples"):
        assert getattr(direct, name) == getattr(slide, name)


def test_tiles_without_data_are_left_to_openslide(tmp_path, monkeypatch):
    monkeypatch.setattr(jpeg_slide, "_SAMPLE", 50)
    path = write(tmp_path / "slide.svs", empty={6})
    with fastest(path) as direct, OpenSlide(path) as slide:
        assert reader_name(direct) == DIRECT
        assert direct.decode((0, 0), 0, (TILE, TILE)) is not None
        for corner in ((64, 64), (40, 40), (100, 100)):
            assert direct.decode(corner, 0, (50, 50)) is None
            assert_same(direct, slide, corner, 0, (50, 50))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), seen=st.booleans())
def test_a_damaged_tile_gives_what_openslide_gives(tmp_path, place, value, seen):
    """An error, or the same pixels: never others, whether the first look has ``seen`` the tile or not."""
    path = write(tmp_path / "slide.svs")
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        offset, length = page.dataoffsets[7], page.databytecounts[7]
    with path.open("r+b") as handle:
        handle.seek(offset + int(place * length))
        handle.write(bytes([value]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg_slide, "_SAMPLE", 300 if seen else 20)
        direct = fastest(path)
    with direct, OpenSlide(path) as slide:
        corner, size = (2 * TILE, TILE), (TILE, TILE)
        try:
            slide.read_region(corner, 0, size)
        except OpenSlideError:
            with pytest.raises(OpenSlideError):
                read_pixels(direct, corner, 0, size)
        else:
            assert_same(direct, slide, corner, 0, size)


def test_a_level_with_other_pixels_than_openslides_is_not_read_directly(tmp_path, monkeypatch):
    path = write(tmp_path / "slide.svs")
    monkeypatch.setattr(jpeg_slide, "_ADOBE", jpeg_slide._ADOBE[:3] + b"\x0c" + jpeg_slide._ADOBE[4:])
    with fastest(path) as direct, OpenSlide(path) as slide:
        assert reader_name(direct) == OPENSLIDE
        assert_same(direct, slide, (10, 10), 0, (200, 150))


@pytest.mark.parametrize("compression", ["deflate", None])
def test_other_codecs_are_left_to_openslide(tmp_path, compression):
    path = tmp_path / "slide.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    tifffile.imwrite(path, pixels, tile=(TILE, TILE), photometric="rgb", compression=compression)
    with fastest(path) as slide:
        assert type(slide) is OpenSlide and reader_name(slide) == OPENSLIDE


def test_memory_of_decoded_tiles_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(jpeg_slide, "_CACHE_BYTES", 3 * TILE * TILE * 3)
    path = write(tmp_path / "slide.svs")
    with fastest(path) as direct, OpenSlide(path) as slide:
        for x in range(0, 200, 50):
            assert_same(direct, slide, (x, 20), 0, (90, 90))
            assert len(direct._tiles) == 3 and direct._bytes == 3 * TILE * TILE * 3


def test_closing_closes_both_files(tmp_path):
    direct = fastest(write(tmp_path / "slide.svs"))
    direct.close()
    with pytest.raises(OSError):
        os.fstat(direct._file)
    with pytest.raises(ArgumentError):
        direct.read_region((0, 0), 0, (10, 10))

"""Which file belongs to which slide: never another patient's."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_utils.features.slide_names import SlideFiles, slide_in_table, slide_of, stem_of
from utils.files import FileError

UUID = "0123abcd-0123-4567-89ab-0123456789ab"


@pytest.mark.parametrize(
    ("name", "stem", "slide"),
    [
        ("S1.h5", "S1", "S1"),
        ("S1.2.h5", "S1.2", "S1.2"),
        ("S1.2", "S1.2", "S1.2"),
        ("P12.2024.01.HDF5", "P12.2024.01", "P12.2024.01"),
        (f"TCGA-AA-0001-01Z-00-DX1.{UUID}.h5", f"TCGA-AA-0001-01Z-00-DX1.{UUID}", "TCGA-AA-0001-01Z-00-DX1"),
        ("S1_featvec.pt", "S1_featvec", "S1"),
        ("0001.npy", "0001", "0001"),
        ("1e5.pt", "1e5", "1e5"),
    ],
)
def test_only_known_endings_are_taken_off(name, stem, slide):
    assert stem_of(name) == stem and slide_of(name) == slide


@pytest.mark.parametrize(
    ("cell", "slide"),
    [
        ("S1.2", "S1.2"),
        ("3/2024", "3/2024"),
        ("S1.svs", "S1"),
        ("/archive/3/S1.2.NDPI", "S1.2"),
        (r"D:\scans\S1.tif", "S1"),
        ("S1_featvec.pt", "S1"),
        (f"TCGA-AA-0001-01Z-00-DX1.{UUID}.svs", "TCGA-AA-0001-01Z-00-DX1"),
    ],
)
def test_a_table_may_name_a_slide_by_its_file(cell, slide):
    assert slide_in_table(cell) == slide


def test_a_letter_is_the_same_in_one_character_or_two():
    name = unicodedata.normalize("NFD", "Mü-1.h5")
    assert found(files(name), "Mü-1") == [name] and slide_of(name) == "Mü-1"


def files(*names):
    return SlideFiles(Path("/features") / name for name in names)


def found(slides, slide, stated=None):
    return [path.name for path in slides.candidates(slide, stated)]


def test_the_exact_name_comes_first_and_a_dot_is_part_of_it():
    slides = files("S1.2.h5", "S2.h5", "S2_featvec.pt", "NA.h5")
    assert found(slides, "S1") == [] and found(slides, "S1.2") == ["S1.2.h5"]
    assert found(slides, "S2") == ["S2.h5"] and found(slides, " S2 ") == ["S2.h5"]
    assert found(slides, "S2", "x/S2_featvec.pt") == ["S2_featvec.pt"]
    assert found(slides, "S1", "S1.2") == ["S1.2.h5"] and found(slides, "NA") == ["NA.h5"]
    assert found(files("S1.h5"), "S1.2", "S1.2") == []


def test_case_alone_is_no_difference():
    with pytest.raises(FileError, match=r"S1\.h5 and slide 's1' differ in upper and lower case or dashes"):
        files("S1.h5").candidates("s1")
    with pytest.raises(FileError, match=r"S-1\.h5 and slide"):
        files("S-1.h5").candidates("S\u20131")
    assert files("S\u200b1.h5").candidates("S1\ufeff") == files("S\u200b1.h5").candidates("S1") != []


@given(st.lists(st.text("aB1._-", min_size=1, max_size=6), min_size=1, max_size=6, unique=True), st.data())
def test_a_file_is_only_ever_that_of_its_own_slide(names, data):
    slides = files(*(f"{name}.h5" for name in names))
    wanted = data.draw(st.sampled_from(names) | st.text("aB1._-", min_size=1, max_size=6))
    try:
        candidates = slides.candidates(wanted)
    except ValueError:
        return
    for path in candidates:
        assert wanted.strip() in (stem_of(path.name), slide_of(path.name))

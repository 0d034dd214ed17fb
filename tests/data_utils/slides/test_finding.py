"""Slides below a folder, and every file that is none although it looks like one."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_utils.features.slide_names import SlideFiles
from data_utils.slides.dicom import series_of
from data_utils.slides.finding import SLIDE_SUFFIXES, UNSUPPORTED_SUFFIXES, find_slides, printable, slide_name
from tests.data_utils.slides.dicom_slide import write_dicom_level


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(found):
    return [path.name for path in found.slides]


def faults(found):
    return {(fault.path.name, fault.status): fault.reason for fault in found.faults}


def test_suffixes_in_any_case(tmp_path):
    tiff_like = [suffix for suffix in SLIDE_SUFFIXES if suffix != ".dcm"]
    make(tmp_path, *(f"sub/{n}{suffix}" for n, suffix in enumerate(tiff_like)))
    make(tmp_path, *(f"{n + 50}{suffix.upper()}" for n, suffix in enumerate(tiff_like)), "x.TifF")
    found = find_slides(tmp_path)
    assert len(found.slides) == 2 * len(tiff_like) + 1 and not found.faults and not found.others


def test_what_is_no_slide_is_counted(tmp_path):
    make(tmp_path, "a.svs", "._a.svs", "notes.txt", "b.txt", "LICENSE", ".git/c.svs")
    found = find_slides(tmp_path)
    assert names(found) == ["a.svs"] and not found.faults
    assert found.others == {".txt": 2, "hidden": 1, "without suffix": 1, "hidden folders": 1}


@pytest.mark.parametrize("suffix", sorted(UNSUPPORTED_SUFFIXES))
def test_kinds_that_nobody_opens(tmp_path, suffix):
    make(tmp_path, f"a{suffix.upper()}")
    ((_, status), reason), *rest = faults(find_slides(tmp_path)).items()
    assert not rest and status == "failed"
    assert UNSUPPORTED_SUFFIXES[suffix] in reason and "convert it to a tiled TIFF" in reason


def test_a_zarr_folder_is_one_fault(tmp_path):
    make(tmp_path, "a.zarr/0/0/1.tif", "b.svs")
    found = find_slides(tmp_path)
    assert names(found) == ["b.svs"] and list(faults(found)) == [("a.zarr", "failed")]


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.svs.gz", "unpack"), ("a.TIFF.zip", "unpack"), ("a.svs.partial", "finish the download")],
)
def test_packed_and_unfinished(tmp_path, name, message):
    make(tmp_path, name, "b.svs.md5")
    found = find_slides(tmp_path)
    assert message in faults(found)[name, "failed"] and found.others == {".md5": 1}


# ---------------------------------------------------------------------------- links
def test_linked_folders_are_searched_once_and_loops_end(tmp_path):
    root = tmp_path / "slides"
    make(root, "sub/a.svs")
    make(tmp_path / "elsewhere", "b.svs", "deep/c.svs")
    (root / "batch").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    (root / "sub" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    found = find_slides(root)
    assert [slide_name(path) for path in found.slides] == ["a", "b", "c"]
    noted = faults(found)
    assert set(noted) == {
        ("batch", "duplicate"),
        ("back", "duplicate"),
        ("up", "duplicate"),
        ("self", "failed"),
    }
    assert "which is searched already" in noted["up", "duplicate"]
    assert found.total == 7


def test_the_folder_itself_may_be_a_link(tmp_path):
    make(tmp_path / "real", "a.svs")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(find_slides(tmp_path / "link")) == ["a.svs"]


def test_links_to_files_keep_their_own_names(tmp_path):
    make(tmp_path, "store/0001", "slides/b.svs")
    (tmp_path / "slides" / "P1.svs").symlink_to(tmp_path / "store" / "0001")
    (tmp_path / "slides" / "gone.svs").symlink_to(tmp_path / "moved.svs")
    (tmp_path / "slides" / "batch").symlink_to(tmp_path / "moved")
    found = find_slides(tmp_path / "slides")
    assert names(found) == ["P1.svs", "b.svs"]
    assert f"link to {tmp_path}/moved.svs, which does not exist" in faults(found)["gone.svs", "failed"]
    assert f"link to {tmp_path}/moved, which does not exist" in faults(found)["batch", "failed"]


def test_pipes_are_not_opened(tmp_path):
    make(tmp_path, "b.svs")
    os.mkfifo(tmp_path / "a.svs")
    found = find_slides(tmp_path)
    assert names(found) == ["b.svs"] and "is no file but a pipe" in faults(found)["a.svs", "failed"]


def test_folders_that_may_not_be_read(tmp_path, monkeypatch):
    make(tmp_path, "closed/a.svs", "torn/b.svs", "c.svs")
    original = Path.iterdir

    def listing(path):
        if path.name in ("closed", "torn"):
            raise (
                PermissionError(13, "Permission denied") if path.name == "closed" else OSError(5, "I/O error")
            )
        return original(path)

    monkeypatch.setattr(Path, "iterdir", listing)  # root may read everything
    found = find_slides(tmp_path)
    assert names(found) == ["c.svs"]
    assert "permission denied" in faults(found)["closed", "failed"]
    assert "I/O error" in faults(found)["torn", "failed"]
    with pytest.raises(PermissionError):
        find_slides(tmp_path / "closed")


# ---------------------------------------------------------------------------- names
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("TCGA-A1.0a1b.SVS", "TCGA-A1.0a1b"),
        ("P1.2024.01.tif", "P1.2024.01"),
        ("a.ome.tiff", "a.ome"),
        ("P1.2024.01", "P1.2024.01"),  # a folder of DICOM files
        (" a .svs", " a "),
    ],
)
def test_the_name_of_a_slide_is_found_again_by_the_rule_of_feature_files(file, name):
    assert slide_name(Path(file)) == name
    feature_file = Path(f"{name}.h5")
    assert SlideFiles([feature_file]).candidates(name) == [feature_file]


def test_slides_of_one_name(tmp_path):
    make(
        tmp_path, "one/a.svs", "two/a.tif", "three/B.svs", "four/b.svs", "five/c.svs", "six/ok.svs", "c .svs"
    )
    found = find_slides(tmp_path)
    assert names(found) == ["ok.svs"]
    assert set(faults(found)) == {
        (name, "failed") for name in ("a.svs", "a.tif", "B.svs", "b.svs", "c.svs", "c .svs")
    }
    assert "two/a.tif" in faults(found)["a.svs", "failed"] and "one/a.svs" in faults(found)["a.tif", "failed"]


def test_the_same_file_twice_is_taken_once(tmp_path):
    make(tmp_path, "z/a.svs")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.svs").symlink_to(tmp_path / "z" / "a.svs")
    found = find_slides(tmp_path)
    assert found.slides == [tmp_path / "z" / "a.svs"]
    assert list(faults(found)) == [("a.svs", "duplicate")]


def test_a_name_too_long_for_a_feature_file(tmp_path):
    folder = tmp_path / ("d" * 254)
    write_dicom_level(folder / "1.dcm", np.zeros((64, 64, 3), np.uint8), 0.5, "1.2")
    make(tmp_path, "a.svs")
    assert names(find_slides(tmp_path)) == ["a.svs"]
    assert "too long" in faults(find_slides(tmp_path))[folder.name, "failed"]


def test_names_that_are_no_text(tmp_path):
    make(tmp_path, os.fsdecode(b"Pr\xe4parat.svs"))
    (path,) = find_slides(tmp_path).slides
    assert printable(path.name) == "Pr\\xe4parat.svs"


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_no_slides_shows_the_folder(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"no slides found in .*{folder}.*MODALTUNE_DATA_ROOT"):
        find_slides(tmp_path / folder)


# ---------------------------------------------------------------------------- slides of several files
def test_mirax_data_belongs_to_its_slide(tmp_path):
    make(tmp_path, "a.mrxs", "a/Slidedat.ini", "a/Data0001.dat", "b/Data.tif")
    found = find_slides(tmp_path)
    assert names(found) == ["Data.tif", "a.mrxs"] and not found.others


def test_dicom_series_are_slides(tmp_path):
    image = np.zeros((64, 128, 3), np.uint8)
    for number in (1, 2):
        write_dicom_level(tmp_path / "P1.2024.01" / f"{number}.DCM", image, 0.5, "1.2.1", number)
        write_dicom_level(tmp_path / "many" / f"x{number}.dcm", image, 0.5, "1.2.2", number)
        write_dicom_level(tmp_path / "many" / f"y{number}.dcm", image, 0.5, "1.2.3", number)
    write_dicom_level(tmp_path / "alone.dcm", image, 0.5, "1.2.4")
    assert series_of(tmp_path / "many" / "y2.dcm") == "1.2.3"
    found = find_slides(tmp_path)
    assert [slide_name(path) for path in found.slides] == ["P1.2024.01", "alone", "x1", "y1"]
    shutil.copy(tmp_path / "alone.dcm", tmp_path / "P1.2024.01" / "z.dcm")
    (tmp_path / "P1.2024.01" / "z.dcm").write_bytes(b"torn")
    assert [slide_name(path) for path in find_slides(tmp_path).slides] == [
        "P1.2024.01",
        "alone",
        "x1",
        "y1",
        "z",
    ]

"""--features_dir: slides are found by name, and a doubt is an error."""

import pytest

from data_utils.features.folder import FeatureFolder

SLIDE = "TCGA-AA-0001-01Z-00-DX1"
UUID = "cb518c97-ef73-4db0-bc46-13f2035b23be"


def folder(tmp_path, *names):
    for name in names:
        (tmp_path / name).touch()
    return FeatureFolder(tmp_path)


@pytest.mark.parametrize(
    ("stated", "there"),
    [
        ("PATHTODATABASE/x/a_featvec.pt", "a_featvec.pt"),  # the same name
        ("PATHTODATABASE/x/a_featvec.pt", "a_featvec.h5"),  # the same stem
        (f"gigapath/{SLIDE}.{UUID}.h5", f"{SLIDE}.{UUID}.npy"),
        (f"x/{SLIDE}_featvec.pt", f"{SLIDE}.{UUID.upper()}.h5"),  # published split, TRIDENT's features
        (f"x/{SLIDE}.{UUID}.h5", f"{SLIDE}_featvec.pt"),  # the other way round
        (None, f"{SLIDE}.hdf5"),
        (None, f"{SLIDE}.{UUID}.h5"),
    ],
)
def test_a_slide_is_found(tmp_path, stated, there):
    found = folder(tmp_path, there, "other.h5", f"{SLIDE}1.h5", f"{SLIDE}_coords.npy").find(stated, SLIDE)
    assert found == tmp_path / there


@pytest.mark.parametrize("there", [f"{SLIDE}1.h5", f"{SLIDE}_2.h5", f"{SLIDE}.2.h5", f"X{SLIDE}.h5", "a.txt"])
def test_names_that_only_look_alike_are_not_taken(tmp_path, there):
    assert folder(tmp_path, there, "other.h5").find("x/a.pt", SLIDE) is None


def test_two_candidates_are_an_error_unless_one_has_the_very_name(tmp_path):
    files = folder(tmp_path, "a.h5", "a.pt")
    assert files.find("x/a.pt", "s") == tmp_path / "a.pt"
    with pytest.raises(ValueError, match=r"slide s could be \['a\.h5', 'a\.pt'\]; keep one"):
        files.find("x/a.npy", "s")


def test_no_folder_and_an_empty_one(tmp_path):
    with pytest.raises(NotADirectoryError, match="--features_dir"):
        FeatureFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no feature file"):
        folder(tmp_path, "a.txt", "a_coords.npy")

"""Patch sizes of feature files, for slide encoders that count distances in patches."""

import numpy as np
import pytest
import torch

from data_utils.cases.datasets import CaseDataset, PatchOptions
from data_utils.cases.splits import Patient
from data_utils.cases.stacking import stack_slides
from data_utils.features.store import FeatureMeta, write_features
from models.titan.grid import check_patch_size, grid_cells, scatter_to_grid


@pytest.fixture
def make_patient(tmp_path):
    """``make_patient((1024, 1024), (512, None))``: slides of 4 x 3 patches, their step and what they state."""

    def make(*slides, origin=(300, 40)):
        paths = []
        for number, (step, stated) in enumerate(slides):
            path = tmp_path / f"slide-{number}.h5"
            coords = cells() * step + np.array(origin)
            features = np.ones((len(coords), 3)) * (np.arange(len(coords))[:, None] + 1 + 100 * number)
            write_features(path, features, coords, FeatureMeta(512, stated), dtype="float32")
            paths.append(path)
        return Patient("case-7", "TCGA-0007", "TCGA-TEST", tuple(paths), 0, 3.0, 1)

    return make


def cells(columns=4, rows=3):
    return np.stack([np.arange(columns * rows) % columns, np.arange(columns * rows) // columns], axis=1)


def case_of(patient, **options):
    options = PatchOptions(**{"check_slide": check_patch_size, **options})
    return CaseDataset([patient], {}, None, options, "train")[0]


def test_slides_of_one_size_are_left_alone(make_patient):
    patient = make_patient((1024, 1024), (1024, 1024), origin=(-300, -7000))
    plain, checked = case_of(patient, check_slide=None), case_of(patient)
    assert torch.equal(plain.coords, checked.coords) and checked.patch_size_lv0 == 1024


@pytest.mark.parametrize("sizes", [(1024, 512), (512, 1024), (1013, 509, 2026)])
@pytest.mark.parametrize("origin", [(0, 0), (301, 43), (-5000, -77)])
@pytest.mark.parametrize("cumulative", [False, True])
def test_slides_of_other_sizes_are_scaled_to_the_first(make_patient, sizes, origin, cumulative, caplog):
    patient = make_patient(*((size, size) for size in sizes), origin=origin)
    case = case_of(patient, cumulative_stacking=cumulative)
    assert case.patch_size_lv0 == sizes[0] and not caplog.text
    found = grid_cells(case.coords, sizes[0])
    for k in range(len(sizes)):  # every slide keeps the shape of its own grid
        part = found[12 * k : 12 * k + 12]
        assert torch.equal(part - part[0], torch.from_numpy(cells()))
    first = np.array(origin) + cells() * sizes[0]
    others = [np.array(origin) * sizes[0] // size + cells() * sizes[0] for size in sizes[1:]]
    expected = np.concatenate(stack_slides([first, *others], sizes[0], cumulative))
    assert np.array_equal(case.coords.numpy(), expected)


def test_scaled_slides_do_not_collapse_or_tear_on_the_grid(make_patient):
    case = case_of(make_patient((1024, 1024), (256, 256)))
    summed, found = scatter_to_grid(case.features, case.coords, case.patch_size_lv0)
    assert len(found) == 24 and sorted(summed[:, 0].tolist()) == [*range(1, 13), *range(101, 113)]


def test_the_flag_serves_files_that_state_nothing(make_patient):
    case = case_of(make_patient((1024, None)), patch_size=1024)
    assert case.patch_size_lv0 == 1024
    mixed = case_of(make_patient((1024, None), (512, 512)), patch_size=1024)
    assert torch.equal(
        grid_cells(mixed.coords[12:], 1024), grid_cells(torch.from_numpy(cells() * 1024), 1024)
    )
    stated = case_of(make_patient((512, 512)), patch_size=1024)
    assert stated.patch_size_lv0 == 512  # what the file states wins


def test_without_a_size_the_file_and_the_flag_are_named(make_patient):
    with pytest.raises(ValueError, match=r"slide-1\.h5: no patch_size_level0.*--patch_size_lv0.*suggest 512"):
        case_of(make_patient((1024, 1024), (512, None)))


@pytest.mark.parametrize(("stated", "options"), [(2048, {}), (None, {"patch_size": 2048})])
def test_a_size_that_collapses_the_grid_names_the_file(make_patient, stated, options):
    message = r"slide-1\.h5: with patch_size_level0 2048, \d+ of 12 patches.*suggest 512"
    with pytest.raises(ValueError, match=message):
        case_of(make_patient((1024, 1024), (512, stated)), **options)


def test_a_collapsed_slide_is_found_before_patches_are_drawn(make_patient):
    with pytest.raises(ValueError, match=r"slide-0\.h5.*12 of 12 patches"):
        case_of(make_patient((512, 102_400)), threshold=1)


def test_encoders_without_a_grid_of_patches_do_not_care(make_patient, caplog):
    case = case_of(make_patient((512, 102_400), (512, None)), check_slide=None)
    assert case.patch_size_lv0 == 102_400 and "[102400, None]" in caplog.text
    assert case_of(make_patient((512, None)), check_slide=None).patch_size_lv0 is None

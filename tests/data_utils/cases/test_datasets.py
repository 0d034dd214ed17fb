"""Patients of a split become Cases; what is missing is named before training starts."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data_utils.cases.datasets import CaseDataset, ModalityOptions, PatchOptions
from data_utils.cases.splits import Patient
from data_utils.cases.stacking import stack_slides
from data_utils.features.store import FeatureMeta, write_features
from data_utils.tables.tensor_table import read_tensor_table

CELL = 256
NOUNS = {"genes": "RNA", "clinical": "clinical features"}


def write_numbered(path, length, first=0, origin=(0, 0), dim=3, patch_size=CELL):
    """A slide whose feature 0 numbers its patches from ``first``."""
    features = np.zeros((length, dim))
    features[:, 0] = first + np.arange(length)
    coords = np.stack([np.arange(length) % 5, np.arange(length) // 5], axis=1) * CELL + np.array(origin)
    write_features(path, features, coords, FeatureMeta(CELL, patch_size, 0.5, 0.5, "test"), dtype="float32")
    return coords


@pytest.fixture
def make_patients(tmp_path):
    """``make_patients([7], [4, 6])``: patients with slides of so many patches, numbered throughout."""

    def make(*lengths, **options):
        patients = []
        for number, slides in enumerate(lengths):
            paths = [tmp_path / f"{number}-{k}.h5" for k in range(len(slides))]
            for path, length, first in zip(paths, slides, np.cumsum([0, *slides]), strict=False):
                write_numbered(path, length, first, **options)
            identity = (f"case-{number}", f"TCGA-{number:04d}", "TCGA-TEST")
            patients.append(Patient(*identity, tuple(paths), number % 2, 3.0 + number, 1))
        return patients

    return make


def dataset(
    patients, genes=None, texts=None, clinical=None, name="train", missing="drop", dropout=0.0, **options
):
    inputs = {
        name: known for name, known in {"genes": genes, "clinical": clinical}.items() if known is not None
    }
    modalities = ModalityOptions({name: NOUNS[name] for name in inputs}, missing, dropout)
    return CaseDataset(patients, inputs, texts, PatchOptions(**options), name, modalities)


def numbers(case):
    return case.features[:, 0].long().tolist()


# ---------------------------------------------------------------------------- whole cases
def test_a_case_holds_everything(make_patients):
    patients = make_patients([7], [4])
    genes = {"TCGA-0001": torch.tensor([1.0, 2.0]), "case-0": torch.tensor([3.0, 4.0])}
    texts = {f"case-{i}": torch.full((4, 512), float(i)) for i in range(2)}
    clinical = {f"case-{i}": torch.full((5,), float(i)) for i in range(2)}
    cases = [dataset(patients, genes, texts, clinical)[i] for i in range(2)]
    assert [c.case_id for c in cases] == ["case-0", "case-1"] and cases[1].submitter_id == "TCGA-0001"
    assert cases[0].inputs["genes"].tolist() == [3.0, 4.0]  # by GDC identifier
    assert cases[1].inputs["genes"].tolist() == [1.0, 2.0]  # by barcode
    assert cases[1].text[0, 0] == 1 and cases[1].inputs["clinical"].tolist() == [1.0] * 5
    assert (cases[1].label, cases[1].duration, cases[1].event, cases[1].patch_size_lv0) == (1, 4.0, 1, CELL)
    assert cases[0].features.shape == (7, 3) and cases[0].features.dtype == torch.float32
    assert cases[0].coords.shape == (7, 2) and cases[0].coords.dtype == torch.int64
    assert numbers(cases[0]) == list(range(7))


def test_without_tables_the_fields_stay_empty(make_patients):
    case = dataset(make_patients([3]))[0]
    assert "genes" not in case.inputs and case.text is None and "clinical" not in case.inputs


@pytest.mark.parametrize("cumulative", [False, True])
def test_slides_are_stacked_in_order(make_patients, cumulative):
    case = dataset(make_patients([7, 4, 6]), cumulative_stacking=cumulative)[0]
    grids = [np.stack([np.arange(n) % 5, np.arange(n) // 5], axis=1) * CELL for n in (7, 4, 6)]
    assert np.array_equal(case.coords.numpy(), np.concatenate(stack_slides(grids, CELL, cumulative)))
    assert numbers(case) == list(range(17))
    assert case.slides == ("0-0", "0-1", "0-2")
    assert case.slide_of_patch.tolist() == [0] * 7 + [1] * 4 + [2] * 6


def test_slides_of_different_patch_size_are_reported(make_patients, caplog):
    patients = make_patients([3, 3])
    write_numbered(patients[0].slides[1], 3, patch_size=512)
    with caplog.at_level("WARNING"):
        case = dataset(patients)[0]
    assert "case-0" in caplog.text and "[256, 512]" in caplog.text and case.patch_size_lv0 == CELL


def test_an_unknown_patch_size_stays_unknown(make_patients):
    case = dataset(make_patients([3, 3], patch_size=None), cumulative_stacking=True)[0]
    assert case.patch_size_lv0 is None
    assert case.coords[3:].tolist() == (case.coords[:3] + torch.tensor([0, 6 * CELL])).tolist()


def test_slides_of_two_encoders_name_the_case(make_patients):
    patients = make_patients([3, 3])
    write_numbered(patients[0].slides[1], 3, dim=4)
    with pytest.raises(ValueError, match=r"case-0.*\[3, 4\] wide"):
        dataset(patients)[0]


# ---------------------------------------------------------------------------- the position grid
def test_stacks_that_leave_the_grid_are_repacked(make_patients, tmp_path):
    patients = make_patients([10, 10, 10, 10])
    inside = dataset(patients, extent=1_000_000, cumulative_stacking=True)[0]
    extent = 4_096
    assert inside.coords.max() >= extent
    case = dataset(patients, extent=extent * 2, cumulative_stacking=True)[0]
    assert case.coords.min() >= 0 and case.coords.max() < extent * 2
    for k in range(4):  # the shape of every slide is kept
        part = slice(10 * k, 10 * k + 10)
        assert torch.equal(
            case.coords[part] - case.coords[10 * k], inside.coords[part] - inside.coords[10 * k]
        )


def test_a_single_slide_outside_the_grid_is_moved_in(make_patients, caplog):
    case = dataset(make_patients([6], origin=(1_000 * CELL, 2_000 * CELL)), extent=1_000 * CELL)[0]
    assert case.coords.min(dim=0).values.tolist() == [0, 0] and not caplog.text


def test_coordinates_inside_the_grid_are_left_alone(make_patients):
    case = dataset(make_patients([6], origin=(37, 5 * CELL)), extent=1_000 * CELL)[0]
    assert case.coords.min(dim=0).values.tolist() == [37, 5 * CELL]


@pytest.mark.parametrize("cumulative", [False, True])
def test_stacks_inside_the_grid_are_left_alone(make_patients, cumulative):
    """Up to the last pixel, and although the published stacking lays the third slide over the first."""
    patients = make_patients([20, 4, 20])
    stacked = dataset(patients, cumulative_stacking=cumulative)[0].coords
    edge = int(stacked.max()) + 1
    inside, outside = (
        dataset(patients, extent=extent, cumulative_stacking=cumulative)[0].coords
        for extent in (edge, edge - 1)
    )
    assert torch.equal(inside, stacked) and not torch.equal(outside, stacked)


def test_what_does_not_fit_the_grid_is_said(make_patients, caplog):
    with caplog.at_level("WARNING"):
        dataset(make_patients([6, 6]), extent=2 * CELL)[0]
    assert "case-0" in caplog.text


# ---------------------------------------------------------------------------- sub-sampling
def test_subsets_keep_the_order_and_the_stacked_positions(make_patients):
    patients = make_patients([20, 1, 30])
    full = dataset(patients)[0]
    for seed in range(5):
        case = dataset(patients, threshold=12, seed=seed)[0]
        chosen = numbers(case)
        assert len(chosen) == 12 and chosen == sorted(set(chosen))
        # Positions are those of the full slides, although the subset may miss their last rows.
        assert torch.equal(case.coords, full.coords[chosen])


def test_every_patch_can_be_chosen(make_patients):
    data = dataset(make_patients([6, 5]), threshold=3, resample=True)
    seen = set()
    for epoch in range(60):
        data.set_epoch(epoch)
        seen |= set(numbers(data[0]))
    assert seen == set(range(11))


@pytest.mark.parametrize("threshold", [None, 11, 12])
def test_no_subset_up_to_the_threshold(make_patients, threshold):
    assert numbers(dataset(make_patients([6, 5]), threshold=threshold)[0]) == list(range(11))


def test_a_subset_may_miss_a_slide(make_patients):
    data = dataset(make_patients([30, 1]), threshold=1, resample=True)
    for epoch in range(5):
        data.set_epoch(epoch)
        assert data[0].features.shape == (1, 3)


def test_training_draws_anew_every_epoch_and_evaluation_does_not(make_patients):
    patients = make_patients([40], [40])
    for resample in (True, False):
        data = dataset(patients, threshold=8, resample=resample)
        draws = []
        for epoch in (0, 1, 0):
            data.set_epoch(epoch)
            draws.append(numbers(data[0]))
        assert draws[0] == draws[2]
        assert (draws[0] != draws[1]) == resample
    assert numbers(data[0]) != numbers(data[1])  # of patients alike in size
    assert numbers(dataset(patients, threshold=8, seed=1)[0]) != draws[0]


def test_a_subset_does_not_depend_on_the_neighbours(make_patients):
    patients = make_patients([40], [40])
    alone, among = dataset(patients[1:], threshold=8), dataset(patients, threshold=8)
    assert numbers(alone[0]) == numbers(among[1])


def test_workers_draw_what_the_main_process_draws(make_patients):
    data = dataset(make_patients(*([20] for _ in range(4))), threshold=5, resample=True)
    passes = {}
    for workers in (0, 2):
        loader = DataLoader(data, batch_size=None, num_workers=workers)
        for epoch in (0, 1):
            data.set_epoch(epoch)
            passes[workers, epoch] = [(case.case_id, numbers(case)) for case in loader]
    assert passes[0, 0] == passes[2, 0] and passes[0, 1] == passes[2, 1]
    assert passes[0, 0] != passes[0, 1]


# ---------------------------------------------------------------------------- what is missing
def test_patients_without_rna_are_counted_and_left_out(make_patients, caplog):
    patients = make_patients([3], [3], [3])
    genes = {"TCGA-0001": torch.ones(1)}
    with caplog.at_level("INFO"):
        data = dataset(patients, genes, name="val")
    assert len(data) == 1 and data[0].case_id == "case-1"
    assert "val: 2 of 3 patients are left out: 2 have no RNA" in caplog.text and data[0].complete


def test_nobody_left_is_an_error(make_patients):
    with pytest.raises(ValueError, match=r"the test split has no patient to run on \(2 have no RNA, of 2\)"):
        dataset(make_patients([3], [3]), {"X": torch.ones(1)}, name="test")
    with pytest.raises(ValueError, match=r"no patient to run on \(it is empty, of 0\)"):
        dataset([], missing="learned")


def test_patients_left_out_need_no_texts_and_no_files(make_patients):
    patients = make_patients([3], [3])
    patients[0].slides[0].unlink()
    genes = {"TCGA-0001": torch.ones(1)}
    assert len(dataset(patients, genes, texts={"case-1": torch.zeros(4, 512)})) == 1


def test_missing_feature_files_name_file_case_and_remedy(make_patients):
    patients = make_patients([3], [3, 3])
    patients[1].slides[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"1 feature files.*1-1\.h5 of case case-1.*FEATURES_ROOT"):
        dataset(patients)


PARTLY = {
    "genes": {"TCGA-0000": torch.ones(1), "TCGA-0001": torch.ones(1)},
    "clinical": {"TCGA-0000": torch.ones(5), "case-2": torch.zeros(5)},
}


def test_only_patients_with_every_modality_are_kept(make_patients, caplog):
    with caplog.at_level("INFO"):
        data = dataset(make_patients([3], [3], [3], [3]), **PARTLY)
    assert [p.case_id for p in data.patients] == ["case-0"] and data[0].inputs["clinical"].tolist() == [
        1.0
    ] * 5
    assert "3 of 4 patients are left out: 2 have no RNA, 2 have no clinical features" in caplog.text


def test_patients_who_lack_a_modality_are_kept_where_a_token_stands_in(make_patients, caplog):
    with caplog.at_level("INFO"):
        data = dataset(make_patients([3], [3], [3], [3]), missing="learned", **PARTLY)
    has = [
        ("genes" in case.inputs, "clinical" in case.inputs, case.complete)
        for case in map(data.__getitem__, range(4))
    ]
    assert has == [(True, True, True), (True, False, False), (False, True, False), (False, False, False)]
    assert "of 4 patients 2 have no RNA, 2 have no clinical features; learned tokens stand in" in caplog.text


# ---------------------------------------------------------------------------- modality dropout
def hidden(data, epoch):
    data.set_epoch(epoch)
    cases = [data[i] for i in range(len(data))]
    assert all(case.complete for case in cases)
    return {case.case_id: ("genes" not in case.inputs, "clinical" not in case.inputs) for case in cases}


@pytest.fixture
def many(make_patients):
    patients = make_patients(*[[2]] * 40)
    genes = {p.case_id: torch.ones(1) for p in patients}
    clinical = {p.case_id: torch.zeros(5) for p in patients}

    def make(kept=patients, **options):
        return dataset(kept, genes, clinical=clinical, missing="learned", **{"resample": True, **options})

    return make


def test_modality_dropout_depends_on_seed_epoch_and_patient_only(many):
    data = many(dropout=0.5, seed=3)
    first = hidden(data, 0)
    assert hidden(many(dropout=0.5, seed=3), 0) == first != hidden(data, 1)
    assert hidden(many(dropout=0.5, seed=4), 0) != first
    assert hidden(many(kept=data.patients[5:9], dropout=0.5, seed=3), 0) == dict(list(first.items())[5:9])
    workers = DataLoader(data, batch_size=None, num_workers=2)
    data.set_epoch(0)
    assert {
        case.case_id: ("genes" not in case.inputs, "clinical" not in case.inputs) for case in workers
    } == first


def test_modality_dropout_hides_each_modality_about_as_often_as_asked(many):
    data = many(dropout=0.3, seed=1)
    draws = np.array([list(hidden(data, epoch).values()) for epoch in range(10)]).reshape(-1, 2)
    assert draws.mean(axis=0) == pytest.approx([0.3, 0.3], abs=0.07)  # three standard deviations of 400 draws
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.15
    assert not np.array(list(hidden(many(), 0).values())).any()


def test_modality_dropout_leaves_the_patch_subsets_alone(make_patients):
    patients = make_patients([30])
    genes = {"case-0": torch.ones(1)}
    with_and_without = [
        numbers(dataset(patients, genes, missing="learned", dropout=p, threshold=5)[0]) for p in (0.0, 0.9)
    ]
    assert with_and_without[0] == with_and_without[1]


def test_a_damaged_feature_file_is_named_when_it_is_read(make_patients):
    patients = make_patients([3])
    patients[0].slides[0].write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"0-0\.h5: damaged"):
        dataset(patients)[0]


# ---------------------------------------------------------------------------- tables of tensors
def test_tensor_tables_become_float(tmp_path):
    torch.save({"a": torch.ones(5, dtype=torch.float64), "b": torch.zeros(5).half()}, tmp_path / "t.pt")
    table = read_tensor_table(tmp_path / "t.pt", (5,), "write it")
    assert set(table) == {"a", "b"} and all(v.dtype == torch.float32 for v in table.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(5), "b": torch.zeros(4)}, r"t\.pt: case b is \(4,\), should be \(5,\)"),
        ({"a": torch.tensor([0, 0, float("nan"), 0, 0])}, r"t\.pt: case a holds NaN.*run this"),
        ({"a": torch.tensor([0, 0, float("inf"), 0, 0])}, r"t\.pt: case a holds NaN or infinite.*run this"),
        ({"a": [0, 0, 0, 0, 0]}, r"t\.pt should hold \{case_id: tensor\}; run this"),
        (torch.zeros(5), r"t\.pt should hold \{case_id: tensor\}"),
    ],
)
def test_bad_tensor_tables(tmp_path, content, message):
    torch.save(content, tmp_path / "t.pt")
    with pytest.raises(ValueError, match=message):
        read_tensor_table(tmp_path / "t.pt", (5,), "run this")


def test_no_or_damaged_tensor_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"t\.pt does not exist; run this"):
        read_tensor_table(tmp_path / "t.pt", (5,), "run this")
    (tmp_path / "t.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"t\.pt is no readable table"):
        read_tensor_table(tmp_path / "t.pt", (5,), "run this")

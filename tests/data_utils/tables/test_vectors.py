"""Precomputed vectors of patients, on disk."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.cases.datasets import input_of
from data_utils.cases.splits import Patient
from data_utils.tables.vectors import read_vectors


def patient(number):
    return Patient(f"case-{number}", f"TCGA-{number:04d}", "TCGA-TEST", (), 0, 1.0, 0)


@settings(max_examples=15, deadline=None)
@given(numbers=st.lists(st.integers(1, 4), min_size=1, max_size=4), width=st.integers(1, 5))
def test_what_was_saved_is_read(tmp_path_factory, numbers, width):
    saved = {f"case-{i}": torch.randn(n, width, dtype=torch.float64) for i, n in enumerate(numbers)}
    path = tmp_path_factory.mktemp("vectors") / "v.pt"
    torch.save(saved, path)
    table = read_vectors(path)
    assert table.structure == [numbers[0] if len(set(numbers)) == 1 else None, width]
    assert list(table.ids) == list(saved) and table.fit() is None
    inputs = table.encode(None)
    for i in range(len(numbers)):
        found = input_of(patient(i), inputs)
        assert found.dtype == torch.float32 and torch.equal(found, saved[f"case-{i}"].float())
    assert input_of(patient(99), inputs) is None


def test_one_vector_and_barcodes(tmp_path):
    torch.save({"TCGA-0003": torch.ones(6), "case-4": torch.zeros(1, 6)}, tmp_path / "v.pt")
    table = read_vectors(tmp_path / "v.pt")
    inputs = table.encode(None)
    assert table.structure == [1, 6] and input_of(patient(3), inputs).tolist() == [[1.0] * 6]
    assert input_of(patient(4), inputs).tolist() == [[0.0] * 6]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(2, 3), "b": torch.zeros(2, 4)}, "vectors of case b are 4 wide, those of a 3"),
        ({"a": torch.zeros(0, 3)}, r"case a is \(0, 3\); it should hold"),
        ({"a": torch.zeros(1, 2, 3)}, r"case a is \(1, 2, 3\)"),
        ({"a": torch.tensor(1.0)}, r"case a is \(\)"),
        ({"a": [1.0, 2.0]}, "case a is list"),
        ({"a": torch.tensor([1.0, float("nan")])}, "case a holds NaN.*leave such a patient out"),
        ({}, "holds dict, perhaps empty"),
        (torch.zeros(3), "holds Tensor"),
    ],
)
def test_bad_tables_name_file_and_case(tmp_path, content, message):
    torch.save(content, tmp_path / "v.pt")
    with pytest.raises(ValueError, match=rf"v\.pt.*{message}"):
        read_vectors(tmp_path / "v.pt")


def test_no_or_damaged_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"v\.pt does not exist; it should hold"):
        read_vectors(tmp_path / "v.pt")
    (tmp_path / "v.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"v\.pt is no readable table of vectors"):
        read_vectors(tmp_path / "v.pt")


def test_vectors_that_are_hardly_meant(tmp_path, caplog):
    """Of another patient, or of another model; the doctor says the same."""
    generator = torch.Generator().manual_seed(0)
    vectors = {f"case-{n}": torch.randn(2, 64, generator=generator) for n in range(6)}
    torch.save(vectors, tmp_path / "v.pt")
    assert not list(read_vectors(tmp_path / "v.pt").check()) and not caplog.text
    torch.save({**vectors, "case-3": vectors["case-1"], "case-4": 100 * vectors["case-4"]}, tmp_path / "v.pt")
    found = [finding.what for finding in read_vectors(tmp_path / "v.pt").check()]
    assert len(found) == 2 and "case-3 as case-1" in found[0] and "case-4" in found[1]
    assert all(what in caplog.text for what in found)
    torch.save({**vectors, "case-4": torch.full((2, 64), 1e30)}, tmp_path / "v.pt")
    with pytest.raises(ValueError, match=r"case case-4 holds values up to 1e\+30"):
        read_vectors(tmp_path / "v.pt")

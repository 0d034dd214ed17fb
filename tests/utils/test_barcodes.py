"""Parts of identifiers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.barcodes import is_normal_tissue, patient_of, patients_of, sample_rank, slide_kind, tidy_barcode


@pytest.mark.parametrize(
    ("identifier", "patient", "normal"),
    [
        ("TCGA-AA-0001-01Z-00-DX1", "TCGA-AA-0001", False),
        ("TCGA-AA-0001-11A-01R", "TCGA-AA-0001", True),
        ("TCGA-AA-0001-01", "TCGA-AA-0001", False),
        ("TCGA-AA-0001", "TCGA-AA-0001", False),
        ("tcga-aa-0001-11", "tcga-aa-0001", True),
        ("TARGET-30-PAAPFA-01A", "TARGET-30-PAAPFA-01A", False),
        ("TARGET-30-PAAPFB", "TARGET-30-PAAPFB", False),
        ("GTEX-1117F-0003-SM-58Q7G", "GTEX-1117F-0003-SM-58Q7G", True),
        ("H-0042", "H-0042", False),
        ("0001", "0001", False),
        ("TCGA-AA-00012", "TCGA-AA-00012", False),
    ],
)
def test_only_tcga_barcodes_have_parts(identifier, patient, normal):
    assert patient_of(identifier) == patient and is_normal_tissue(identifier) is normal


@given(st.text())
def test_a_patient_is_a_beginning_of_the_identifier(identifier):
    assert identifier.startswith(patient_of(identifier))


@pytest.mark.parametrize(
    ("samples", "patients"),
    [
        (["TARGET-30-PAAPFA-01A", "TARGET-30-PANZYW-01A"], ["TARGET-30-PAAPFA", "TARGET-30-PANZYW"]),
        (["TCGA-AA-0001-01", "C3L-00001-01A"], ["TCGA-AA-0001", "C3L-00001"]),
        (["P-01A", "P-02A"], ["P-01A", "P-02A"]),  # two patients, as far as one can know
        (["C3L-00001-01A", "C3L-00002"], ["C3L-00001-01A", "C3L-00002"]),
        (["patient.1", "patient.2"], ["patient.1", "patient.2"]),
    ],
)
def test_patients_of_samples(samples: list[str], patients: list[str]) -> None:
    assert patients_of(samples) == patients


def test_samples_in_the_order_of_their_types() -> None:
    order = ["TCGA-AA-0001-01A-11R", "TCGA-AA-0001-01B", "TCGA-AA-0001-02A", "TCGA-AA-0001-06A", "own"]
    backwards = order[::-1]
    assert sorted(backwards, key=sample_rank) == order


def test_tidy_barcodes() -> None:
    assert tidy_barcode("tcga.aa.0001.01a") == "TCGA-AA-0001-01A"
    assert tidy_barcode("own.name.h5") == "own.name.h5"


@pytest.mark.parametrize(
    ("identifier", "kind"),
    [
        ("TCGA-AA-0001-01Z-00-DX1", "dx"),
        ("TCGA-AA-0001-01Z-00-DXA.1a2b", "dx"),
        ("TCGA-AA-0001-01A-01-TS1", "frozen"),
        ("tcga-aa-0001-01a-02-bsb", "frozen"),
        ("TCGA-AA-0001-01A-01-MS1", "frozen"),
        ("TCGA-AA-0001-01A-01-BS10", "frozen"),
        ("TCGA-AA-0001-01A", None),
        ("TCGA-AA-0001-01A-01-XX1", None),
        ("H-0042-TS1", None),
    ],
)
def test_kinds_of_slides(identifier, kind):
    assert slide_kind(identifier) == kind

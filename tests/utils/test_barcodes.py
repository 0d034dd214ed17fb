"""Parts of identifiers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.barcodes import is_normal_tissue, patient_of


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

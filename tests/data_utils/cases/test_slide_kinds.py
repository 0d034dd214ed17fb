"""Which slides of a patient are taken."""

from pathlib import Path

import pytest

from data_utils.cases.slide_kinds import choose_slides

SLIDES = [
    ("TCGA-AA-0001-01Z-00-DX1", "TCGA-AA-0001", Path("1.h5")),
    ("TCGA-AA-0001-01A-01-TS1", "TCGA-AA-0001", Path("2.h5")),
    ("house-7", "house", Path("3.h5")),
]


@pytest.mark.parametrize(("wanted", "kept"), [("all", [0, 1, 2]), ("dx", [0, 2]), ("frozen", [1, 2])])
def test_slides_of_no_known_kind_stay(wanted, kept):
    taken, dropped = choose_slides(SLIDES, wanted)
    assert taken == [SLIDES[number] for number in kept]
    assert [entry[:2] for entry in dropped] == [entry[:2] for entry in SLIDES if entry not in taken]

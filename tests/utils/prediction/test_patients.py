"""Whose slides they are, by tables of every format."""

import numpy as np
import pandas as pd
import pytest

from tests.small_cohort import write_slide
from utils.prediction.patients import read_patients


@pytest.mark.parametrize("suffix", ["csv", "tsv", "xlsx", "parquet"])
def test_tables_of_every_format_say_the_same(suffix, tmp_path):
    names = [f"scan-{k}" for k in range(4)]
    for seed, name in enumerate(names):
        write_slide(tmp_path / "features" / f"{name}.h5", 4, seed)
    table = pd.DataFrame(
        {"patient": ["0037", "0037", "0038", "0039"], "slide": [*names[:3], "gone"], "note": np.nan}
    )
    path = tmp_path / f"patients.{suffix}"
    if suffix == "xlsx":
        table.to_excel(path, index=False)
    elif suffix == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    found = read_patients(tmp_path / "features", path)
    assert {p.case_id: p.slide_ids for p in found.patients} == {
        "0037": ("scan-0", "scan-1"),
        "0038": ("scan-2",),
    }
    assert found.errors == {"0039": "no feature file for slide gone"}

"""What lies inside pathways, of one patient and over patients."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from models.modalities import Entries
from utils.explain.pathways import (
    cohort_members,
    draw_members,
    entry_table,
    group_sums,
    member_bars,
    members,
    patient_bars,
)

ENTRIES = {
    "genes": Entries(("G1", "G2", "G2", "G3"), ("A", "A", "B", "B")),
    "clinical": Entries(("age", "stage")),
}


def table(*genes):
    return entry_table({"genes": np.array(genes), "clinical": np.array([5.0, 6.0])}, ENTRIES)


def test_the_greatest_come_first_and_numbers_without_a_group_are_left_out():
    entries = table(1.0, -3.0, 0.5, 0.25)
    order = list(group_sums(entries).abs().sort_values(ascending=False).index)
    assert order == ["stage", "age", "A", "B"]
    inside = members(entries, order, "attribution")
    assert list(inside) == ["A", "B"]
    assert inside["A"].to_dict() == {"G2": -3.0, "G1": 1.0} and list(inside["A"].index) == ["G2", "G1"]
    assert members(entries.query("modality == 'clinical'"), order, "attribution") == {}


def test_over_patients(tmp_path):
    tables = [table(1.0, -3.0, 0.5, 0.25), table(-2.0, 1.0, 0.5, 0.0)]
    tables[0].to_csv(tmp_path / "one.csv", index=False)  # as it is read again, with empty groups
    found = cohort_members([pd.read_csv(tmp_path / "one.csv"), tables[1]])
    assert list(found["name"]) == ["G1", "G2", "G2", "G3"] and list(found["group"]) == list("AABB")
    assert found["mean_abs"].tolist() == pytest.approx([1.5, 2.0, 0.5, 0.125])
    assert found["mean"].tolist() == pytest.approx([-0.5, -1.0, 0.5, 0.125])
    assert found["patients"].tolist() == [2, 2, 2, 2]


def test_the_figures_show_every_group(tmp_path):
    inside = {f"P{k}": pd.Series({f"G{g}": g - 3.0 for g in range(2 + 5 * k)}) for k in range(4)}
    draw_members(inside, tmp_path / "all.png", "attribution")
    draw_members({"P3": inside["P3"]}, tmp_path / "one.png", "attribution")
    widths = [Image.open(tmp_path / name).size[0] for name in ("all.png", "one.png")]
    assert widths[0] == 3 * widths[1]
    bars = member_bars(inside, "genes")
    assert list(bars.panels) == ["P0", "P1", "P2 (10 of 12)", "P3 (10 of 17)"] and bars.limit == 6
    (greatest,) = patient_bars(pd.Series({f"P{k}": k - 30.0 for k in range(51)})).panels.values()
    assert (
        greatest.iloc[[0, 1, -1]].to_dict() == {"P50": 20.0, "P49": 19.0, "P0": -30.0} and len(greatest) == 20
    )

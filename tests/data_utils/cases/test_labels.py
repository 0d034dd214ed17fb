"""Labels of split files: what is understood, and what is refused before a training begins."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_utils.cases.labels import MAX_MONTHS, number, read_labels

ROW = {"primary_class": 1, "durations": 12.5, "vital_status": 0}


@pytest.mark.parametrize("event", [1, True, "1", 1.0, "1.0"])
@pytest.mark.parametrize("label", [2, 2.0, "2"])
def test_ways_to_write_a_number(event, label):
    row = {"primary_class": label, "durations": "12.5", "vital_status": event, "age_at_index": None}
    labels = read_labels(row, Path("s.json"), "row 0")
    assert labels == (2, 12.5, 1) and [type(value) for value in labels] == [int, float, int]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("vital_status", "Dead", "1 is dead, 0 is censored"),
        ("vital_status", 2, "1 is dead"),
        ("vital_status", -1, "1 is dead"),
        ("vital_status", 0.7, "1 is dead"),
        ("vital_status", float("nan"), "1 is dead"),
        ("primary_class", 0.5, "a class is a whole number"),
        ("primary_class", -2, "a class is a whole number"),
        ("primary_class", "IDC", "a class is a whole number"),
        ("primary_class", float("nan"), "a class is a whole number"),
        ("durations", -3.0, "months from 0 to 1,200"),
        ("durations", float("inf"), "months from 0 to 1,200"),
        ("durations", float("nan"), "months from 0 to 1,200"),
        ("durations", 1_201, "months from 0 to 1,200"),
        ("durations", "12,5", "months from 0 to 1,200"),
        ("age_at_index", -1, "ages are years from 0 to 130"),
        ("age_at_index", 131, "ages are years"),
        ("age_at_index", "old", "ages are years"),
    ],
)
def test_impossible_labels_name_file_row_and_rule(name, value, rule):
    with pytest.raises(ValueError, match=rf"^s\.json: row 3, case c: {name} is .*{rule}"):
        read_labels({**ROW, name: value}, Path("s.json"), "row 3, case c")


@given(st.none() | st.text(max_size=5) | st.floats() | st.integers() | st.lists(st.integers(), max_size=2))
def test_whatever_stands_there_is_a_label_or_a_clear_error(value):
    for name in ROW:
        try:
            label, months, event = read_labels({**ROW, name: value}, Path("here"), "row 0")
        except ValueError as error:
            assert str(error).startswith(f"here: row 0: {name} is ") and len(str(error)) < 300
        else:
            if name == "primary_class" and value is None:
                assert label == -1
                continue
            assert label >= -1 and 0 <= months <= MAX_MONTHS and event in (0, 1)
            assert number(value) == {"primary_class": label, "durations": months, "vital_status": event}[name]

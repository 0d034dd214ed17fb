"""A report says whether it is whole."""

import logging

import pandas as pd
import pytest

from utils.evaluation.report_file import REPORT, read_report, write_report

TABLE = pd.DataFrame(
    {
        "task": ["General", "Survival"],
        "split": "test",
        "metric": ["auc", "concordance_index"],
        "value": [0.1 + 0.2, None],
        "reason": ["", 'no deaths, "none" at all'],
    }
)


@pytest.fixture
def written(tmp_path):
    write_report(tmp_path, TABLE)
    return tmp_path / REPORT


def test_what_was_written_is_read(written):
    found = read_report(written.parent)
    pd.testing.assert_frame_equal(found.fillna(""), TABLE.fillna(""), check_dtype=False)
    assert list(pd.read_csv(written).columns) == [*TABLE, "checksum"]


def test_no_report(tmp_path):
    assert read_report(tmp_path) is None


def test_a_report_that_is_cut_anywhere_is_not_finished(written):
    content = written.read_bytes()
    for end in range(len(content)):
        written.write_bytes(content[:end])
        assert read_report(written.parent) is None, content[:end]


@pytest.mark.parametrize(
    "change", [(b"General", b"Genera1"), (b"0.3", b"0.8"), (b",", b";"), (b"t", b"\xff")]
)
def test_a_report_that_was_changed_is_not_finished(written, change, caplog):
    written.write_bytes(written.read_bytes().replace(*change, 1))
    assert read_report(written.parent) is None
    assert "made anew" in caplog.text


def test_reports_of_older_versions_are_taken_with_a_warning(written, caplog):
    TABLE.to_csv(written, index=False)
    with caplog.at_level(logging.WARNING):
        assert len(read_report(written.parent)) == 2
    assert "no checksum" in caplog.text
    written.write_bytes(written.read_bytes()[:-5])
    assert read_report(written.parent) is None

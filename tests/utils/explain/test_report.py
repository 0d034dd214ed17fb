"""Pages on their own: what they hold, and that nothing of a user's names becomes markup."""

import pandas as pd
import pytest

from tests.utils.explain.html_page import check_page
from utils.evaluation.plots import figure
from utils.explain.report import Bars, Picture, Section, Table, write_page


@pytest.fixture
def picture(tmp_path):
    with figure(tmp_path / "a.png", 2, 2) as drawing:
        drawing.subplots().plot([0, 1])
    return Picture(tmp_path / "a.png", 'a "figure" & more')


def test_a_page_shows_what_it_is_given(tmp_path, picture):
    (tmp_path / "b.html").touch()
    link = {"href": "b.html", "text": "<TCGA>"}
    section = Section("Numbers", [Table(["name", "<value>"], [[link, 0.123456], ["x", 7]])], [picture])
    section.warnings.append("look <here>")
    values = pd.Series([2.0, -1.0, 0.5], index=["<gene>", "b", "b"])
    section.charts.append(Bars({"one & all": values, "other": values[:1]}, "charts"))
    section.notes.append("and <there>")
    write_page(tmp_path / "page.html", "<b>Title</b>", ["about & about"], [section])
    page = check_page(tmp_path / "page.html")
    assert page.texts["h1"] == ["<b>Title</b>"]
    assert page.tables == [[["name", "<value>"], ["<TCGA>", "0.1235"], ["x", "7"]]]
    assert page.texts["p"] == ["about & about", "look <here>", "and <there>"]
    assert page.charts == [3, 1]
    assert page.texts["text"] == ["one & all", "<gene>", "2", "b", "-1", "b", "0.5", "other", "<gene>", "2"]
    assert page.texts["figcaption"] == ["charts", picture.caption]
    assert page.captions == ['a "figure" & more'] and page.links == ["b.html"]
    assert "b" not in page.tags


def test_tables_of_data_frames(tmp_path):
    frame = pd.DataFrame({"n": [1, 2], "share": [0.5, float("nan")], "name": ["a", "b"]})
    write_page(tmp_path / "page.html", "t", [], [Section("s", [Table.of(frame)])])
    page = check_page(tmp_path / "page.html")
    assert page.tables == [[["n", "share", "name"], ["1", "0.5", "a"], ["2", "nan", "b"]]]


def test_what_does_not_nest_is_noticed(tmp_path):
    (tmp_path / "page.html").write_text("<!DOCTYPE html><p><b>text</p></b>")
    with pytest.raises(AssertionError, match="closes another"):
        check_page(tmp_path / "page.html")

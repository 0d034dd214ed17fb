"""Embedded sentences of any width; a whole row of NaN is a sentence that a case lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_utils.tables.sentence_table import read_sentence_table
from utils.tensor_files import write_tensors

NAN = float("nan")


def test_rows_may_be_absent(tmp_path: Path) -> None:
    table = {"a": torch.ones(3, 5), "b": torch.tensor([[1.0] * 5, [NAN] * 5, [2.0] * 5])}
    write_tensors(tmp_path / "t.pt", table)
    found = read_sentence_table(tmp_path / "t.pt", 3, "write it")
    for case, value in table.items():
        torch.testing.assert_close(found[case], value, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(4, 5), r"case b is \(4, 5\), should be \(3, 5\)"),
        (torch.ones(3, 6), r"case b is \(3, 6\)"),
        (torch.full((3, 5), NAN), "no sentence at all"),
        (torch.tensor([[1.0, NAN, 1.0, 1.0, 1.0]] * 3), "NaN or infinite"),
        (torch.full((3, 5), float("inf")), "NaN or infinite"),
        ("text", "should hold"),
    ],
)
def test_what_is_no_table(tmp_path: Path, value: object, words: str) -> None:
    write_tensors(tmp_path / "t.pt", {"a": torch.ones(3, 5), "b": value})
    with pytest.raises(ValueError, match=words):
        read_sentence_table(tmp_path / "t.pt", 3, "write it")

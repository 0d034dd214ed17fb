"""Embedded sentences of any width; a whole row of NaN is a sentence that a case lacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data_utils.tables.sentence_table import read_sentence_table
from utils.files import FileError
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v * torch.tensor([[1.0], [0.0]]), "case b holds a sentence of zeros"),
        (lambda v: (100 * v).to(torch.int8), r"case b is of type torch\.int8"),
        (lambda v: v > 0, r"case b is of type torch\.bool"),
    ],
)
def test_sentences_that_are_no_embeddings(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    value = torch.nn.functional.normalize(torch.arange(1.0, 9.0).view(2, 4), dim=-1)
    torch.save({"a": value, "b": change(value)}, tmp_path / "t.pt")
    with pytest.raises(FileError, match=rf"t\.pt: {words}"):
        read_sentence_table(tmp_path / "t.pt", 2, "write it again")


def test_sentences_of_another_length_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    value = torch.nn.functional.normalize(torch.arange(1.0, 9.0).view(2, 4), dim=-1)
    torch.save({"a": value, "b": 2 * value}, tmp_path / "t.pt")
    read_sentence_table(tmp_path / "t.pt", 2, "write it again")
    assert "embeddings of 1 cases are not L2-normalised: ['b']" in caplog.text

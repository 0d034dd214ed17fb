"""Embedded label sentences ``{case: [rows, width]}``; a row of NaN is a sentence that the case does not have."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from data_utils.tables.tasks import SENTENCE_TASKS, TaskSet, read_tasks
from data_utils.tables.tensor_table import read_tensors_by_case
from utils.files import FileError
from utils.tensor_files import read_tensors

logger = logging.getLogger(__name__)


def read_sentence_table(path: str | Path, rows: int, remedy: str) -> dict[str, Tensor]:
    """Reads ``{case_id: [rows, width]}``, float32; the width is that of the text model.

    Args:
        path: the file.
        rows: sentences of a case.
        remedy: how to get a right file, for messages.

    Raises:
        FileNotFoundError: there is no such file; the message ends with ``remedy``.
        ValueError: the file is damaged or holds something else, entries differ in shape, a case has no sentence at
            all, or a sentence is finite in part only.
    """
    path, table = Path(path), read_tensors_by_case(path, remedy)
    width = next((value.shape[-1] for value in table.values() if value.ndim == 2), None)
    for case_id, value in table.items():
        if value.ndim != 2 or tuple(value.shape) != (rows, width):
            fault = f": case {case_id} is {tuple(value.shape)}, should be {(rows, width)}"
            raise FileError(path, fault, f"it needs a sentence for each entry of the task file: {remedy}")
        if not value.is_floating_point() or (value == 0).all(dim=1).any():
            what = "holds a sentence of zeros" if value.is_floating_point() else f"is of type {value.dtype}"
            raise FileError(path, f": case {case_id} {what}", remedy)
        if torch.isinf(value).any() or (value.isnan().any(dim=1) != value.isnan().all(dim=1)).any():
            raise FileError(path, f": case {case_id} holds NaN or infinite values", remedy)
        if value.isnan().all():
            fault = f": case {case_id} holds NaN only, no sentence at all"
            raise FileError(path, fault, f"leave it out, or {remedy}")
    lengths = {case_id: value.float().norm(dim=-1).nan_to_num(1.0) for case_id, value in table.items()}
    if odd := [case_id for case_id, length in lengths.items() if (length - 1).abs().max() > 0.05]:
        logger.warning("%s: embeddings of %d cases are not L2-normalised: %s", path, len(odd), odd[:3])
    return {str(case_id): value.float() for case_id, value in table.items()}


def tasks_file(table: Path) -> Path:
    """Where the tasks lie that a table of embedded sentences was written for."""
    return table.with_suffix(SENTENCE_TASKS)


def check_sentences(table: Path, tasks: TaskSet) -> None:
    """Whether a table was written for these tasks, as far as the file beside it tells.

    Raises:
        FileError: it was written for others.
    """
    beside = tasks_file(table)
    if beside.is_file() and (written := read_tasks(beside)).sentences_differ(tasks):
        raise FileError(
            table,
            f"holds the sentences of other tasks ({written.difference(tasks)})",
            "pass the --tasks that it was written for, or write it again with these",
        )


def read_sentence_vectors(path: str | Path, sentences: Sequence[str]) -> Tensor:
    """L2-normalised vectors ``[n, width]`` of sentences, from ``{sentence: vector [width]}`` of any text model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, lacks a sentence, or a vector is zero, not finite or of another
            width; the sentence is named.
    """
    path, remedy = (
        Path(path),
        "embed the sentences that --list_sentences writes, and torch.save {sentence: torch.as_tensor(vector)}",
    )
    if not path.is_file():
        raise FileNotFoundError(f"--text_vectors {path} does not exist; {remedy}")
    table = read_tensors(path, "table {sentence: tensor}")
    if not isinstance(table, dict) or not all(isinstance(value, Tensor) for value in table.values()):
        raise FileError(path, "does not hold {sentence: tensor}", remedy)
    if missing := [sentence for sentence in sentences if sentence not in table]:
        raise FileError(
            path, f"lacks {len(missing)} of {len(sentences)} sentences, such as {missing[0]!r}", remedy
        )
    vectors = [table[sentence].detach().float().squeeze() for sentence in sentences]
    for sentence, vector in zip(sentences, vectors, strict=True):
        if vector.ndim != 1 or vector.shape != vectors[0].shape:
            raise FileError(path, f"holds {tuple(table[sentence].shape)} for {sentence!r}", remedy)
        if not torch.isfinite(vector).all() or not vector.any():
            raise FileError(path, f"holds NaN, infinite or only zero values for {sentence!r}", remedy)
    return torch.nn.functional.normalize(torch.stack(vectors), dim=-1)


def text_width(table: Mapping[str, Tensor] | None) -> int | None:
    """Width of the embeddings; None where there are none."""
    return next((value.shape[-1] for value in (table or {}).values()), None)

"""Embedded label sentences ``{case: [rows, width]}``; a row of NaN is a sentence that the case does not have."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from utils.files import read_tensors


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
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {remedy}")
    table = read_tensors(path, "table {case_id: tensor}")
    if not isinstance(table, dict) or not all(isinstance(value, Tensor) for value in table.values()):
        raise ValueError(f"{path} should hold {{case_id: tensor}}; {remedy}")
    width = next((value.shape[-1] for value in table.values() if value.ndim == 2), None)
    for case_id, value in table.items():
        if value.ndim != 2 or tuple(value.shape) != (rows, width):
            raise ValueError(
                f"{path}: case {case_id} is {tuple(value.shape)}, should be {(rows, width)}, a sentence for each entry "
                f"of the task file; {remedy}"
            )
        if torch.isinf(value).any() or (value.isnan().any(dim=1) != value.isnan().all(dim=1)).any():
            raise ValueError(f"{path}: case {case_id} holds NaN or infinite values; {remedy}")
        if value.isnan().all():
            raise ValueError(
                f"{path}: case {case_id} holds NaN only, no sentence at all; leave it out, or {remedy}"
            )
    return {str(case_id): value.float() for case_id, value in table.items()}


def text_width(table: dict[str, Tensor]) -> int | None:
    """Width of the embeddings; None for an empty table."""
    return next((value.shape[-1] for value in table.values()), None)

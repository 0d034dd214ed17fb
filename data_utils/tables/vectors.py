"""Precomputed vectors of patients: report embeddings, mutations, another foundation model's slides."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from data_utils.tables.tensor_table import TensorTable
from utils.files import FileError
from utils.findings import Finding, listing, warning
from utils.tensor_files import is_plain, read_tensors

logger = logging.getLogger(__name__)

# As for features of patches, see data_utils.features.checks and the doctor.
_LARGEST = 1e6
_OTHER_SCALE = 30
# Of so many numbers no two patients have the same ones, unless they count mutations.
_MANY = 100
_LAYOUT = "it should hold {case_id: tensor [n, d] or [d]}, written with torch.save"


class VectorTable(TensorTable):
    """Vectors ``[n, d]`` by patient."""

    @property
    def structure(self) -> list[int | None]:
        """``[n, d]``; ``n`` is None where it differs between patients."""
        numbers = {len(value) for value in self.tensors.values()}
        width = next(iter(self.tensors.values())).shape[1]
        return [numbers.pop() if len(numbers) == 1 else None, width]

    def check(self) -> Iterator[Finding]:
        yield from (warning(f"{self.path}: {what}", remedy) for what, remedy in _doubts(self.tensors))


def _doubts(table: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """What makes vectors look as if they were of other patients or of several sources, and what to do."""
    first: dict[bytes, str] = {}
    same = [
        f"{case_id} as {other}"
        for case_id, value in table.items()
        if (other := first.setdefault(value.numpy().tobytes(), case_id)) != case_id and value.numel() >= _MANY
    ]
    if same:
        yield f"{len(same)} patients have the vectors of another: {listing(same)}", "correct these entries"
    sizes = {case_id: float(value.abs().mean()) for case_id, value in table.items()}
    typical = statistics.median(sizes.values())
    if typical and (odd := [c for c, size in sizes.items() if size > _OTHER_SCALE * typical]):
        yield (
            f"the vectors of {len(odd)} patients are more than {_OTHER_SCALE} times as large as the others: "
            f"{listing(odd)}",
            "vectors of one model are of one size",
        )


def read_vectors(path: str | Path) -> VectorTable:
    """Reads ``{case_id: [n, d]}``; one vector ``[d]`` counts as ``[1, d]``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, the widths differ, a patient has no vector, or a value is
            not finite; the message names the file and the case.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {_LAYOUT}")
    content = read_tensors(path, "table of vectors")
    if not isinstance(content, dict) or not content:
        raise FileError(path, f"holds {type(content).__name__}, perhaps empty", _LAYOUT)
    table: dict[str, Tensor] = {}
    first: tuple[str, int] | None = None
    for case_id, value in content.items():
        if not is_plain(value) or value.ndim not in (1, 2) or 0 in value.shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise FileError(path, f": case {case_id} is {found}", _LAYOUT)
        value = torch.atleast_2d(value).float()
        first = first or (case_id, value.shape[1])
        if value.shape[1] != first[1]:
            widths = (
                f"the vectors of case {case_id} are {value.shape[1]} wide, those of {first[0]} {first[1]}"
            )
            raise FileError(path, f": {widths}", _LAYOUT)
        if not torch.isfinite(value).all():
            fault = f": case {case_id} holds NaN or infinite values"
            raise FileError(path, fault, "leave such a patient out of the table")
        if (largest := float(value.abs().max())) > _LARGEST:
            fault = f": case {case_id} holds values up to {largest:.3g}, which no embedding has"
            raise FileError(path, fault, "correct it, or leave such a patient out of the table")
        table[str(case_id)] = value
    for what, remedy in _doubts(table):
        logger.warning("%s: %s - %s", path, what, remedy)
    return VectorTable(path, table)

"""What a cohort's file knows of one modality, and the plain case of it: tensors by patient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.files import FileError, quoted
from utils.findings import Finding
from utils.tensor_files import is_plain, read_tensors


class ModalityTable(ABC):
    """The data of one modality for the patients of a cohort.

    Attributes:
        path: the file they come from.
    """

    path: Path

    @property
    def remark(self) -> str:
        """What a reader of the result tables must know of the data; empty where there is nothing."""
        return ""

    @property
    @abstractmethod
    def ids(self) -> Collection[str]:
        """Whom the table holds, by barcode or GDC identifier."""

    @property
    def structure(self) -> Any:
        """What decides the parameters of an encoder for these data, in plain values; None where nothing does.

        A trained model keeps the structure of its training cohort.
        """
        return None

    def fit(self, only: Collection[str] | None = None) -> dict[str, Any] | None:
        """What has to be learned of the data before they can be encoded, in plain values; stored with the weights.

        Args:
            only: ids of the cases to learn from; all cases where None.
        """
        return None

    @abstractmethod
    def encode(self, fitted: Mapping[str, Any] | None) -> Mapping[str, Tensor]:
        """The input of every case, float32, by what :meth:`fit` gave."""

    def of_site(self, site: str) -> ModalityTable:
        """The same data as those of patients of one cancer site, where a pan-cancer model tells sites apart."""
        return self

    def describe(self, fitted: Mapping[str, Any] | None) -> dict[str, Any]:
        """What ``config.json`` should say of the data, in plain values."""
        return {"cases": len(self.ids)}

    def check(self) -> Iterator[Finding]:
        """What the doctor should say about the content; who is in the table is checked elsewhere."""
        yield from ()


class TensorTable(ModalityTable):
    """Tensors that a model takes as they are."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path, self.tensors = path, tensors

    @property
    def ids(self) -> Collection[str]:
        return self.tensors.keys()

    def encode(self, fitted: Mapping[str, Any] | None) -> Mapping[str, Tensor]:
        return self.tensors


def read_tensors_by_case(path: str | Path, remedy: str) -> dict[str, Tensor]:
    """Reads ``{case_id: tensor}`` of any shapes.

    Raises:
        FileNotFoundError: there is no such file; the message ends with ``remedy``.
        FileError: the file is damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {remedy}")
    table = read_tensors(path, "table {case_id: tensor}")
    if not isinstance(table, dict) or not all(map(is_plain, table.values())):
        raise FileError(path, "should hold {case_id: tensor}", remedy)
    return table


def read_tensor_table(
    path: str | Path, shape: tuple[int, ...], remedy: str, may_lack: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    """Reads ``{case_id: tensor}`` (texts, clinical features).

    Args:
        path: the file.
        shape: of every entry.
        remedy: how to get a right file, for messages.
        may_lack: positions of an entry of one dimension that may be NaN.

    Raises:
        FileNotFoundError: there is no such file; the message ends with ``remedy``.
        FileError: the file is damaged or holds something else, an entry has another shape or holds
            values that are not finite.
    """
    path, table = Path(path), read_tensors_by_case(path, remedy)
    for case_id, value in table.items():
        if tuple(value.shape) != shape:
            fault = f": case {quoted(str(case_id), 50)} is {tuple(value.shape)}, should be {shape}"
            raise FileError(path, fault, remedy)
        known = [i for i in range(shape[-1]) if i not in may_lack] if may_lack else slice(None)
        if not torch.isfinite(value[..., known]).all() or torch.isinf(value).any():
            fault = f": case {quoted(str(case_id), 50)} holds NaN or infinite values"
            raise FileError(path, fault, remedy)
    return {str(case_id): value.float() for case_id, value in table.items()}

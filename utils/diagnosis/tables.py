"""Tables of one tensor per case: label sentences and clinical features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from data_utils.datasets import read_tensor_table
from utils.cohort_data import CLINICAL_SHAPE, TEXT_SHAPE
from utils.diagnosis.inputs import Inputs
from utils.diagnosis.report import Finding, error, listing, ok, warning


def check_texts(inputs: Inputs) -> Iterator[Finding]:
    """Label sentences of all training patients."""
    path = inputs.args.text_location
    if path is None:
        yield ok("an evaluation needs no label sentences")
        return
    remedy = "write it with python -m data_utils.make_textemb_conch"
    try:
        table = read_tensor_table(path, TEXT_SHAPE, remedy)
    except (OSError, ValueError) as reason:
        yield error(str(reason), remedy)
        return
    yield from _check_everyone(inputs, table, str(path), ("train",), remedy)
    values = torch.stack(list(table.values())) if table else torch.zeros(0, *TEXT_SHAPE)
    odd = [case for case, value in table.items() if (value.norm(dim=-1) - 1).abs().max() > 0.05]
    if odd:
        yield warning(f"{path}: embeddings are not L2-normalised: cases {listing(odd)}", remedy)
    if len(table) > 1 and (values[:, 0] == values[0, 0]).all():
        yield warning(f"{path}: all cases have the same general sentence", remedy)


def check_clinical(inputs: Inputs) -> Iterator[Finding]:
    """Clinical features of all patients, where the model reads them."""
    path = inputs.args.clinical_location
    if "clinical" not in inputs.mil_name:
        return
    remedy = "write it with python -m data_utils.make_clinical"
    if path is None:
        yield error(f"{inputs.mil_name} needs --clinical_location", remedy)
        return
    try:
        table = read_tensor_table(path, CLINICAL_SHAPE, remedy)
    except (OSError, ValueError) as reason:
        yield error(str(reason), remedy)
        return
    yield from _check_everyone(inputs, table, str(path), ("train", "val", "test"), remedy)


def _check_everyone(
    inputs: Inputs, table: Mapping[str, Tensor], path: str, splits: tuple[str, ...], remedy: str
) -> Iterator[Finding]:
    needed = [p.case_id for name, p in inputs.patients() if name in splits and inputs.runs(p)]
    lacking = [case for case in needed if case not in table]
    if lacking:
        yield error(
            f"{path} lacks {len(lacking)} of {len(needed)} patients: {listing(lacking)}; it holds such as "
            f"{listing(table)}",
            f"{remedy} from the same split files",
        )
    else:
        yield ok(f"{path}: all {len(needed)} patients that need an entry have one")

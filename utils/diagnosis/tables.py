"""Tables by case: label sentences, clinical values, precomputed vectors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import torch

from data_utils.clinical import read_clinical_table
from data_utils.datasets import read_tensor_table
from models.aggregators import modalities_of
from utils import constants
from utils.cohort_data import TEXT_SHAPE
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
    yield from _check_everyone(inputs, table, str(path), ("train",), remedy, by_barcode=False)
    values = torch.stack(list(table.values())) if table else torch.zeros(0, *TEXT_SHAPE)
    odd = [case for case, value in table.items() if (value.norm(dim=-1) - 1).abs().max() > 0.05]
    if odd:
        yield warning(f"{path}: embeddings are not L2-normalised: cases {listing(odd)}", remedy)
    if len(table) > 1 and (values[:, 0] == values[0, 0]).all():
        yield warning(f"{path}: all cases have the same general sentence", remedy)


def check_clinical(inputs: Inputs) -> Iterator[Finding]:
    """Clinical values or features of all patients, where the model reads them."""
    remedy = "write it with python -m data_utils.make_clinical"
    yield from _check_modality(inputs, "clinical", lambda path: read_clinical_table(path).ids, remedy)


def check_vectors(inputs: Inputs) -> Iterator[Finding]:
    """Precomputed vectors of all patients, where the model reads them."""
    remedy = "write {case_id: [n, d]} with torch.save"
    yield from _check_modality(inputs, "vectors", lambda path: inputs.vectors.ids, remedy)


def _check_modality(
    inputs: Inputs, name: str, read_ids: Callable[[Path], list[str]], remedy: str
) -> Iterator[Finding]:
    if name not in modalities_of(inputs.mil_name):
        return
    source = constants.MODALITIES[name]
    path = getattr(inputs.args, source.flag)
    if path is None:
        if inputs.learned and inputs.args.eval_only:
            yield warning(
                f"no --{source.flag}: learned tokens stand for the {source.noun} of everyone", remedy
            )
        else:
            yield error(f"{inputs.mil_name} needs --{source.flag}", remedy)
        return
    try:
        known = read_ids(path)
    except (OSError, ValueError) as reason:
        yield error(str(reason), remedy)
        return
    yield from _check_everyone(inputs, known, str(path), ("train", "val", "test"), remedy)


def _check_everyone(
    inputs: Inputs,
    table: Collection[str],
    path: str,
    splits: tuple[str, ...],
    remedy: str,
    by_barcode: bool = True,
) -> Iterator[Finding]:
    """Whether ``table`` holds every patient, by case_id or (unless ``by_barcode`` is False) barcode."""
    needed = [p for name, p in inputs.patients() if name in splits and inputs.runs(p)]
    known = set(table)
    lacking = [
        p.case_id for p in needed if not {p.case_id, p.submitter_id if by_barcode else p.case_id} & known
    ]
    if lacking and by_barcode and inputs.learned and len(lacking) < len(needed):
        yield warning(
            f"{path} lacks {len(lacking)} of {len(needed)} patients, learned tokens stand in: {listing(lacking)}",
            f"{remedy} from the same split files, if they should be there",
        )
    elif lacking:
        yield error(
            f"{path} lacks {len(lacking)} of {len(needed)} patients: {listing(lacking)}; it holds such as "
            f"{listing(table)}",
            f"{remedy} from the same split files",
        )
    else:
        yield ok(f"{path}: all {len(needed)} patients that need an entry have one")

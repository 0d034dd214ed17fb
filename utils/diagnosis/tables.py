"""What is stored by case: label sentences, and who has which modality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from data_utils.cases.cohort_data import check_names
from data_utils.tables.sentence_table import check_sentences, read_sentence_table
from models.modalities import Modality, modality
from utils.diagnosis.inputs import Inputs
from utils.findings import Finding, error, listing, ok, warning

# Patients without a modality beyond this share are worth a second look.
MANY_ABSENT = 0.1


def check_texts(inputs: Inputs) -> Iterator[Finding]:
    """Label sentences of all training patients."""
    path = inputs.config.data.text_location
    if path is None:
        yield ok("an evaluation needs no label sentences")
        return
    remedy = "write it with python -m data_utils.make_textemb_conch"
    try:
        check_sentences(path, inputs.tokens)
        table = read_sentence_table(path, len(inputs.tokens.rows), remedy)
    except (OSError, ValueError) as reason:
        yield error(str(reason), remedy)
        return
    yield from _check_everyone(inputs, table, str(path), ("train",), remedy)
    values = torch.stack(list(table.values())) if table else torch.zeros(0, 1, 1)
    odd = [
        case for case, value in table.items() if (value.norm(dim=-1) - 1).abs().nan_to_num(0.0).max() > 0.05
    ]
    if odd:
        yield warning(f"{path}: embeddings are not L2-normalised: cases {listing(odd)}", remedy)
    if lacking := int(values.isnan().all(dim=-1).any(dim=-1).sum()):
        yield ok(f"{path}: {lacking} of {len(table)} cases lack some sentence (unknown class or survival)")
    if len(table) > 1 and (values[:, 0] == values[0, 0]).all():
        yield warning(f"{path}: all cases have the same {inputs.tokens.rows[0]} sentence", remedy)


def check_modalities(inputs: Inputs) -> Iterator[Finding]:
    """The tables of the modalities that the model reads; each is an area of its own."""
    for name in inputs.need("modalities"):
        entry = modality(name)
        try:
            table = inputs.table(name)
        except (OSError, ValueError) as reason:
            yield replace(error(str(reason), entry.remedy), area=name)
            continue
        checks = () if table is None else table.check()
        for finding in chain(checks, _check_coverage(inputs, entry)):
            yield replace(finding, area=finding.area or name)


def _check_coverage(inputs: Inputs, entry: Modality) -> Iterator[Finding]:
    """How many patients have a modality, and what happens to the others."""
    path, ids = inputs.path(entry.name), inputs.ids(entry.name)
    patients = [p for _, p in inputs.patients()]
    absent = [p.submitter_id for p in patients if not {p.case_id, p.submitter_id} & ids]
    learned = inputs.learned and entry.may_be_absent
    fate = "learned tokens stand in" if learned else "they are left out"
    if path is None:
        what = f"no --{entry.flag}"
        if learned:
            yield ok(f"{what}: learned tokens stand for the {entry.noun} of all")
        else:
            yield error(f"{what}, which {inputs.mil_name} needs", f"pass --{entry.flag}")
        return
    if patients and len(absent) == len(patients):
        yield error(
            f"no patient of the split files is in {path}: the splits hold such as {listing(absent)}, the table "
            f"such as {listing(sorted(ids))}",
            f"pass the --{entry.flag} of this cohort; it names cases by barcode or case_id",
        )
        return
    try:
        check_names(inputs.table(entry.name), patients)
    except ValueError as reason:
        yield error(str(reason), "give every patient one name in all files")
        return
    if len(absent) > MANY_ABSENT * len(patients) and not learned:
        yield warning(
            f"{len(absent)} of {len(patients)} patients have no {entry.noun}, {fate}: {listing(absent)}",
            "expected in some cohorts (--missing_modalities learned keeps these patients); otherwise compare the "
            "barcodes of both files",
        )
    elif patients:
        rest = f"; {fate} for the others" if learned and absent else ""
        yield ok(
            f"{len(patients) - len(absent)} of {len(patients)} patients have {entry.noun} ({path}){rest}"
        )


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

"""What is stored by case: label sentences, and who has which modality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from data_utils.cases.cohort_data import TEXT_SHAPE
from data_utils.cases.datasets import read_tensor_table
from utils import constants
from utils.diagnosis.inputs import Inputs
from utils.diagnosis.report import Finding, error, listing, ok, warning

# Patients without a modality beyond this share are worth a second look.
MANY_ABSENT = 0.1


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
    """Clinical values or features, where the model reads them."""
    yield from _check_modality(inputs, "clinical", "write it with python -m data_utils.make_clinical")


def check_vectors(inputs: Inputs) -> Iterator[Finding]:
    """Precomputed vectors, where the model reads them."""
    yield from _check_modality(
        inputs, "vectors", "write {case_id: tensor [n, d]} with torch.save, and pass --vectors_location"
    )


def _check_modality(inputs: Inputs, modality: str, remedy: str) -> Iterator[Finding]:
    if modality not in inputs.need("modalities"):
        return
    try:
        inputs.ids(modality)
    except (OSError, ValueError) as reason:
        yield error(str(reason), remedy)
        return
    yield from check_coverage(inputs, modality)


def check_coverage(inputs: Inputs, modality: str) -> Iterator[Finding]:
    """How many patients have a modality, and what happens to the others."""
    source, path, ids = constants.MODALITIES[modality], inputs.path(modality), inputs.ids(modality)
    patients = [p for _, p in inputs.patients()]
    absent = [p.submitter_id for p in patients if not {p.case_id, p.submitter_id} & ids]
    learned = inputs.learned
    fate = "learned tokens stand in" if learned else "they are left out"
    if path is None:
        what = f"no --{source.flag}"
        if learned:
            yield ok(f"{what}: learned tokens stand for the {source.noun} of all")
        else:
            yield error(f"{what}, which {inputs.mil_name} needs", f"pass --{source.flag}")
    elif patients and len(absent) == len(patients):
        yield error(
            f"no patient of the split files is in {path}: the splits hold such as {listing(absent)}, the table "
            f"such as {listing(sorted(ids))}",
            f"pass the --{source.flag} of this cohort; it names cases by barcode or case_id",
        )
    elif len(absent) > MANY_ABSENT * len(patients) and not learned:
        yield warning(
            f"{len(absent)} of {len(patients)} patients have no {source.noun}, {fate}: {listing(absent)}",
            "expected in some cohorts (--missing_modalities learned keeps these patients); otherwise compare the "
            "barcodes of both files",
        )
    elif patients:
        rest = f"; {fate} for the others" if learned and absent else ""
        yield ok(
            f"{len(patients) - len(absent)} of {len(patients)} patients have {source.noun} ({path}){rest}"
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

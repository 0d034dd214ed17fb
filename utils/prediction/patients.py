"""Who is predicted: feature files and, where names do not say it, a table of patients and slides."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from data_utils.cases.splits import Patient
from data_utils.features.folder import FeatureFolder
from data_utils.features.identity import copies, feature_identity
from data_utils.features.slide_names import slide_in_table, slide_of
from data_utils.tables.flat_files import read_texts
from data_utils.tables.tensor_table import ModalityTable
from utils.barcodes import is_normal_tissue, owners_of_slides, patient_of, spelled_twice
from utils.files import FileError
from utils.findings import listing

logger = logging.getLogger(__name__)

_REMEDY = "give it the columns patient and slide"


@dataclass
class Requested:
    """Patients to predict, and what is wrong with those that cannot be.

    Attributes:
        patients: with at least one feature file, where the models read any.
        errors: reason by patient.
        notes: what was left out of a patient who is predicted, by patient.
    """

    patients: list[Patient] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def read_patients(features_dir: Path, table: Path | None = None) -> Requested:
    """The patients of a folder of feature files.

    Without a table the slides of one TCGA barcode are one patient, and any other slide is a patient of its own. Slides
    of normal tissue (by their barcode) are left out.

    Args:
        features_dir: feature files of any tool.
        table: with the columns ``patient`` and ``slide``, a row per slide; CSV, TSV, XLSX or parquet.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: no folder, no feature file, no table, or it has other
            columns; the message says which.
    """
    folder = FeatureFolder(features_dir)
    wanted = [(patient_of(slide), slide) for slide in dict.fromkeys(slide_of(f.name) for f in folder.files)]
    slides: dict[str, list[tuple[str, Path | None]]] = {}
    requested = Requested()
    for patient, slide in wanted if table is None else _rows(table):
        own = slides.setdefault(patient, [])
        if slide is None:
            continue
        try:
            own.append((slide, folder.find(None, slide)))
        except ValueError as error:  # several files, or another spelling: the other patients go on
            requested.errors[patient] = str(error)
    for patient, found in slides.items():
        if patient in requested.errors:
            continue
        normal = [slide for slide, _ in found if is_normal_tissue(slide)]
        absent = [slide for slide, path in found if path is None and slide not in normal]
        kept = [(slide, path) for slide, path in found if path is not None and slide not in normal]
        left_out = [f"no feature file for slide {slide}" for slide in absent]
        left_out += [f"slide {slide} is of normal tissue" for slide in normal]
        if not kept:
            requested.errors[patient] = "; ".join(left_out) or "no slide"
            continue
        if left_out:
            requested.notes[patient] = "; ".join(left_out)
        requested.patients.append(_patient(patient, kept))
    owners = {slide: p.case_id for p in requested.patients for slide in p.slides}
    if same := copies({slide: feature_identity(slide)[1] for slide in owners}, owners):
        logger.warning("%d feature files hold the patches of another patient: %s", len(same), listing(same))
    logger.info(
        "%s: %d patients with %d slides, %d without features",
        features_dir,
        len(requested.patients),
        sum(len(p.slides) for p in requested.patients),
        len(requested.errors),
    )
    return requested


def listed_patients(tables: Iterable[ModalityTable]) -> Requested:
    """Everybody in the tables, for models that read no patches."""
    names = dict.fromkeys(str(name) for table in tables for name in table.ids)
    logger.info("%d patients in the tables", len(names))
    return Requested([Patient(name, name, "", (), -1, float("nan"), 0) for name in names])


def one_per_slide(patients: list[Patient]) -> list[Patient]:
    """Every slide of patients who have several, as a case of its own with the other data of its patient."""
    return [
        Patient(f"{p.case_id}\n{slide}", p.submitter_id, "", (path,), -1, float("nan"), 0, slide_ids=(slide,))
        for p in patients
        if len(p.slides) > 1
        for slide, path in zip(p.slide_ids, p.slides, strict=True)
    ]


def _patient(name: str, slides: list[tuple[str, Path]]) -> Patient:
    names, paths = zip(*slides, strict=True)
    return Patient(name, name, "", tuple(paths), -1, float("nan"), 0, slide_ids=tuple(names))


def _rows(path: Path) -> list[tuple[str, str | None]]:
    table = read_texts(path)
    if lacking := [name for name in ("patient", "slide") if name not in table]:
        raise FileError(path, f"lacks the columns {lacking}; it has {list(table.columns)[:10]}", _REMEDY)
    table = table[["patient", "slide"]]
    if (nobody := table["patient"].isna()).any():
        row = table[nobody].iloc[0].dropna().to_dict()
        fault = f": {nobody.sum()} rows have no patient, the first is {row or 'empty'}"
        raise FileError(path, fault, "fill it in, or remove the row")
    table = table.assign(slide=table["slide"].map(lambda cell: cell and slide_in_table(cell)))
    if pair := spelled_twice(table["patient"]):
        fault = f": the patients {pair[0]!r} and {pair[1]!r} differ in upper and lower case or dashes only"
        raise FileError(path, fault, "write them alike")
    listed = table.dropna().drop_duplicates()
    owners = listed.groupby("slide")["patient"].agg(list)
    if (shared := owners[owners.map(len) > 1]).size:
        fault = f": slide {shared.index[0]} is of several patients: {shared.iloc[0]}"
        raise FileError(path, fault, "a slide is of one patient")
    owners_of_slides(zip(listed["slide"], listed["patient"], strict=True), path)
    return list(table.drop_duplicates().itertuples(index=False, name=None))

"""Reading GDC tables and split files of any cohort; what a cohort is, see ``data_utils.tables.cohorts``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data_utils.tables.ajcc import AJCC_COLUMNS, is_category, reduce_text
from data_utils.tables.cohorts import Cohort
from data_utils.tables.fates import (
    FATE_COLUMNS,
    FOLLOW_UP_FILE,
    check_living,
    check_status,
    fate_of,
    numbers_of,
    survival,
)
from data_utils.tables.text_table import read_table
from data_utils.tables.values import (
    MAX_AGE,
    fits,
    is_missing,
    odd_times,
)
from utils import constants
from utils.barcodes import owners_of_slides
from utils.files import FileError, quoted, read_json

logger = logging.getLogger(__name__)

# How the names of the files begin that list what the rows of a case disagree on.
CONTRADICTIONS = "contradictions"
_REMEDY = "export it from the GDC portal (tab separated)"
_SPLITS = "write it with data_utils.make_dataset"
_ID_COLUMNS = ("case_id", "case_submitter_id", "project_id")
_CASE_COLUMNS = (*_ID_COLUMNS, *FATE_COLUMNS, "primary_diagnosis")
# GBM and LGG have no AJCC columns; where a column is absent every case lacks the value.
_OPTIONAL_CASE_COLUMNS = ("age_at_index", "year_of_diagnosis", *AJCC_COLUMNS)
# What one diagnosis says; it must come from one row.
_DIAGNOSIS_COLUMNS = ("primary_diagnosis", "year_of_diagnosis", *AJCC_COLUMNS)
# Which tumour of the patient a row is about.
_TUMOUR_COLUMNS = ("classification_of_tumor", "diagnosis_is_primary_disease")
_OTHER_TUMOURS = (
    "metastasis",
    "recurrence",
    "progression",
    "prior primary",
    "subsequent primary",
    "synchronous primary",
)
_YEARS = (2100, 1900)
_SLIDE_COLUMNS = ("case_submitter_id", "slide_submitter_id")
# The entity that exports since 2024 put in front of a name; columns of other entities have the same names.
_ENTITIES = {
    **dict.fromkeys(("case_id", "case_submitter_id"), ("cases",)),
    "project_id": ("project", "cases"),
    **dict.fromkeys(("age_at_index", "vital_status", "days_to_death"), ("demographic",)),
    **dict.fromkeys((*_DIAGNOSIS_COLUMNS, *_TUMOUR_COLUMNS, "days_to_last_follow_up"), ("diagnoses",)),
    "days_to_follow_up": ("follow_ups",),
    "slide_submitter_id": ("slides",),
}


@dataclass(frozen=True)
class ClinicalExport:
    """A clinical table, one row a case.

    Attributes:
        cases: raw texts, missing values are None.
        notes: ``case_submitter_id, field, values, taken`` of every case whose rows contradict each other.
    """

    cases: pd.DataFrame
    notes: pd.DataFrame


# ---------------------------------------------------------------------------- GDC exports
def read_clinical(path: str | Path, further: Sequence[str] = ()) -> ClinicalExport:
    """One row per case of ``clinical.tsv``, with the times of ``follow_up.tsv`` beside it where it has none.

    GDC writes a row for every treatment and every diagnosis. Rows about the primary tumour count where a column
    says which they are. Where they still contradict each other, all fields of the diagnosis come from the first
    row that has most of them. Of several times the latest counts, and one row that says dead is enough.
    ``further`` columns are kept, too, by their names in the table; of several values of a case the first counts.

    Raises:
        FileNotFoundError: the file does not exist.
        FileError: it is no table, a column is missing, there are no rows, or a number is impossible.
    """
    path = Path(path)
    if taken := [name for name in further if name in FATE_COLUMNS]:
        raise FileError(
            path, f": survival is made of {taken}", "take durations and vital_status of the split files"
        )
    rows = _read_gdc_table(path, (*_CASE_COLUMNS, *further), _OPTIONAL_CASE_COLUMNS, _TUMOUR_COLUMNS)
    rows = rows[rows["case_submitter_id"].notna() & rows["case_id"].notna()].reset_index(drop=True)
    if rows.empty:
        raise FileError(path, "names no case: case_id and case_submitter_id are empty", _REMEDY)
    several = rows.groupby("case_id")["case_submitter_id"].unique()
    if (several := several[several.map(len) > 1]).size:
        fault = f": case_id {several.index[0]} has the barcodes {list(several.iloc[0])[:5]}"
        raise FileError(path, fault, "correct these rows: a case has one barcode")
    check_status(path, rows)
    chosen = _rows_of_the_tumour(path, rows)
    groups = chosen.groupby("case_submitter_id", sort=True)
    cases = groups[[name for name in rows if name not in ("case_submitter_id", *FATE_COLUMNS)]].first()
    notes: list[tuple[str, str, str, str]] = []
    several = (groups[list(_DIAGNOSIS_COLUMNS)].nunique() > 1).any(axis=1)
    for case in several.index[several]:
        fields = groups.get_group(case)[list(_DIAGNOSIS_COLUMNS)]
        row = fields.loc[fields.notna().sum(axis=1).idxmax()]
        cases.loc[case, list(_DIAGNOSIS_COLUMNS)] = row
    every = rows.groupby("case_submitter_id", sort=True)
    fates = every[list(FATE_COLUMNS)].first()
    several = (every[list(FATE_COLUMNS)].nunique() > 1).any(axis=1)
    for case in several.index[several]:
        fates.loc[case] = pd.Series(fate_of(path, every.get_group(case)))
    cases = cases.join(fates)
    compared = ["case_id", *_DIAGNOSIS_COLUMNS, *FATE_COLUMNS, "age_at_index", *further]
    disagree = rows.groupby("case_submitter_id")[compared].nunique() > 1
    for name in disagree:
        for case in disagree.index[disagree[name]]:
            values = dict.fromkeys(map(str, every.get_group(case)[name].dropna()))
            notes.append((str(case), str(name), " | ".join(values), str(cases.at[case, name])))
        if disagree[name].any():
            count = int(disagree[name].sum())
            logger.warning("%s: the rows of %d cases have several values of %s", path, count, name)
    cases = cases.rename_axis("case_submitter_id").reset_index()
    cases = _later_follow_ups(path, cases)[[*_CASE_COLUMNS, *_OPTIONAL_CASE_COLUMNS, *further]]
    logger.info("%s: %d cases in %d rows", path, len(cases), len(rows))
    return ClinicalExport(
        cases.astype(object).mask(cases.isna(), None),
        pd.DataFrame(notes, columns=["case_submitter_id", "field", "values", "taken"]),
    )


def read_slides(path: str | Path) -> pd.DataFrame:
    """One row per slide of ``slide.tsv``: ``slide_submitter_id``, ``case_submitter_id``; errors as above."""
    slides = _read_gdc_table(path, _SLIDE_COLUMNS, ()).dropna()
    owners_of_slides(zip(slides["slide_submitter_id"], slides["case_submitter_id"], strict=True), Path(path))
    return slides.drop_duplicates("slide_submitter_id").reset_index(drop=True)


def _rows_of_the_tumour(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows about the primary tumour of each case; all of a case where no row says what it is about."""
    primary = (
        rows["diagnosis_is_primary_disease"].str.lower().map({"true": 2, "yes": 2, "false": -2, "no": -2})
    )
    kind = rows["classification_of_tumor"].str.lower()
    score = primary.fillna(0).astype(int) + (kind == "primary") - kind.isin(_OTHER_TUMOURS).astype(int)
    best = score.groupby(rows["case_submitter_id"]).transform("max")
    if (foreign := rows.loc[best < 0, "case_submitter_id"].unique()).size:
        shown = ", ".join(foreign[:3])
        logger.warning("%s: %d cases have rows of other tumours only, such as %s", path, foreign.size, shown)
    return rows[score == best]


def _later_follow_ups(path: Path, cases: pd.DataFrame) -> pd.DataFrame:
    """The last day of ``follow_up.tsv`` where the clinical table has none: that is where GDC moved it in release 42."""
    beside = path.parent / FOLLOW_UP_FILE
    without = cases["days_to_last_follow_up"].isna()
    if not without.any() or not beside.is_file():
        return cases
    rows = _read_gdc_table(beside, ("case_submitter_id", "days_to_follow_up"), ()).dropna()
    days = numbers_of(rows, "days_to_follow_up", beside)
    last = days.groupby(rows["case_submitter_id"]).max()
    found = cases["case_submitter_id"].map(last)
    filled = without & found.notna()
    logger.info("%s: the last follow-up of %d cases, which %s lacks", beside, filled.sum(), path)
    texts = cases["days_to_last_follow_up"].astype(object)
    return cases.assign(days_to_last_follow_up=texts.where(~filled, found.map("{:g}".format)))


def _read_gdc_table(
    path: str | Path, required: tuple[str, ...], optional: tuple[str, ...], silent: tuple[str, ...] = ()
) -> pd.DataFrame:
    """The columns asked for, missing values as None; absent optional columns are named in the log, silent ones not."""
    path = Path(path)
    table = read_table(path, "GDC table", _REMEDY)
    table.columns = [_column_name(column) for column in table.columns]
    wanted = [name for name in (*required, *optional, *silent) if name in table]
    for name in wanted:
        same = table.loc[:, table.columns == name]
        if same.shape[1] > 1 and not same.eq(same.iloc[:, 0], axis=0).all(axis=None):
            raise FileError(
                path, f"has {same.shape[1]} columns {name} that differ", "delete or rename the others"
            )
    table = table.loc[:, ~table.columns.duplicated()]
    missing = [column for column in required if column not in table]
    if missing:
        fault = f"lacks the columns {missing}; it has {list(table.columns)[:20]}"
        raise FileError(path, fault, _REMEDY)
    if table.empty:
        raise FileError(path, "has no rows", _REMEDY)
    absent = [column for column in optional if column not in table]
    if absent:
        logger.warning("%s has no columns %s: missing for every case", path, absent)
    table = table.reindex(columns=[*required, *optional, *silent]).astype(object)
    return table.apply(lambda column: column.astype(object).mask(is_missing(column), None))


def _column_name(column: str) -> str:
    """Name without the entity that GDC exports since 2024 put in front ("demographic.vital_status").

    These exports repeat field names across entities; columns of other entities keep theirs.
    """
    path, _, name = column.strip().rpartition(".")
    entity = path.rpartition(".")[2]
    if name == "submitter_id" and entity in ("cases", "slides"):
        return f"{entity.removesuffix('s')}_submitter_id"
    return name if not entity or entity in _ENTITIES.get(name, ()) else column


# ---------------------------------------------------------------------------- cleaning
def clean_cases(raw: pd.DataFrame, cohort: Cohort, source: str | Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Cases as the split files list them, and the reason for every case that had to be left out.

    Args:
        raw: ``cases`` of :func:`read_clinical`.
        cohort: names projects, diagnoses and classes.
        source: file the rows come from, for messages.

    Returns:
        cases ``[n]`` with the fields of a split row that belong to the patient (durations in months), and
        ``{case_submitter_id: reason}``.

    Raises:
        FileError: a number is impossible, or survival times are missing for the living above all.
    """
    cases = raw.copy()
    cases["durations"], cases["vital_status"] = survival(raw, source)
    if odd := odd_times(cases["durations"].dropna().tolist()):
        logger.warning("%s: %s; are its times really days?", source, odd)
    cases["primary_diagnosis"] = [
        cohort.clean_diagnosis(diagnosis, project)
        for diagnosis, project in zip(raw["primary_diagnosis"], raw["project_id"], strict=True)
    ]
    cases["primary_class"] = [cohort.class_of(diagnosis) for diagnosis in cases["primary_diagnosis"]]
    cases["age_at_index"] = numbers_of(raw, "age_at_index", source, MAX_AGE, 0).round().astype("Int64")
    cases["year_of_diagnosis"] = numbers_of(raw, "year_of_diagnosis", source, *_YEARS).round().astype("Int64")

    reasons = pd.Series(None, index=cases.index, dtype=object)
    # The first fault of a case is the one reported, so the last line written is the first one checked.
    reasons[cases["durations"].isna()] = "survival time missing"
    reasons[cases["vital_status"].isna()] = "vital status missing"
    strange = cases["vital_status"].isna() & raw["vital_status"].notna()
    reasons[strange] = "vital status not understood: " + raw.loc[strange, "vital_status"].astype(str).map(
        quoted
    )
    if strange.any():
        values = raw.loc[strange, "vital_status"].map(quoted).value_counts().head(10).to_dict()
        logger.warning("%s: vital status is not understood, and the case left out: %s", source, values)
    foreign = ~cases["project_id"].isin(cohort.projects)
    reasons[foreign] = "project " + cases.loc[foreign, "project_id"].astype(str) + f" not in {cohort.name}"
    check_living(cases, reasons, foreign, source)
    dropped = dict(
        zip(cases.loc[reasons.notna(), "case_submitter_id"], reasons[reasons.notna()], strict=True)
    )
    cases = cases[reasons.isna()].drop(columns=["days_to_death", "days_to_last_follow_up"])
    return cases.astype({"vital_status": int, "durations": float}).reset_index(drop=True), dropped


def strange_texts(cases: pd.DataFrame, source: str | Path) -> list[tuple[str, str]]:
    """Barcode and message of every AJCC text that names no category; their values are counted in the log.

    Label sentences leave such a part out, clinical features give it a code of its own.
    """
    found: list[tuple[str, str]] = []
    for column in AJCC_COLUMNS:
        texts = cases[column].dropna()
        odd = texts[[not is_category(reduce_text(text, column), column) for text in texts]]
        found += [
            (str(case), f"{column} not understood: {quoted(text)}")
            for case, text in zip(cases.loc[odd.index, "case_submitter_id"], odd, strict=True)
        ]
        if len(odd):
            values = odd.map(quoted).value_counts().head(10).to_dict()
            logger.warning("%s: %s names no category: %s", source, column, values)
    return found


# ---------------------------------------------------------------------------- split files
def split_paths(onco: str, encoder: str = "gigapath", folder: str | Path | None = None) -> dict[str, Path]:
    """Paths of a cohort's split files, in ``folder`` where one is given."""
    paths = {split: constants.split_file(onco, split, encoder) for split in constants.SPLITS}
    return {split: Path(folder) / path.name if folder else path for split, path in paths.items()}


def read_split_cases(paths: Mapping[str, str | Path]) -> pd.DataFrame:
    """One row per case of the split files, ours or published, in the order of the files.

    Returns:
        the fields of the split rows plus ``split``; missing texts are None, missing numbers NaN.

    Raises:
        FileNotFoundError: a file does not exist.
        FileError: not the format of a split file, a field is missing, a case stands in two splits, or there
            is no case at all.
    """
    needed = ("case_id", "case_submitter_id", "project_id", "durations", "vital_status", "primary_diagnosis")
    rows: list[dict] = []
    folder = Path(next(iter(paths.values()))).parent
    for split, path in paths.items():
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"split file {path} does not exist; write it with data_utils.make_dataset"
            )
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("data"), list):
            raise FileError(path, 'is no split file: it must hold {"data": [one object per slide]}', _SPLITS)
        for number, row in enumerate(content["data"]):
            if not isinstance(row, dict):
                raise FileError(path, f": row {number} is {row!r}, no object", _SPLITS)
            if absent := [key for key in needed if key not in row]:
                raise FileError(path, f": row {number} lacks {absent}", _SPLITS)
            if odd := [f"{name} is {str(v)[:60]!r}" for name, v in row.items() if not fits(name, v)]:
                raise FileError(path, f": row {number}, case {row['case_id']}: {odd[0]}", "correct the row")
            rows.append({**row, "split": split})
    if not rows:
        names = [Path(path).name for path in paths.values()]
        raise FileError(folder, f": the split files {names} hold no case", _SPLITS)
    table = pd.DataFrame(rows)
    for column in (*AJCC_COLUMNS, "age_at_index"):
        if column not in table:
            table[column] = None
    for column in (*AJCC_COLUMNS, "primary_diagnosis"):
        texts = table[column].astype(object)
        table[column] = texts.mask(is_missing(texts), None)
    for column in ("age_at_index", "durations"):
        table[column] = pd.to_numeric(table[column]).astype(float)
    # 0 where nothing is known of the survival: the time is NaN then.
    table["vital_status"] = pd.to_numeric(table["vital_status"]).fillna(0).astype(int)
    if "primary_class" in table:
        table["primary_class"] = pd.to_numeric(table["primary_class"]).fillna(-1).astype(int)
    leaks = table.groupby("case_id")["split"].nunique()
    if (leaks > 1).any():
        fault = f": cases stand in more than one split: {leaks.index[leaks > 1].tolist()[:5]}"
        raise FileError(folder, fault, "leave every patient in one split")
    return table.drop_duplicates("case_id").reset_index(drop=True)

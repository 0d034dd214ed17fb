"""Reading GDC tables and split files.

Nothing in here depends on the cohort: that is data, see ``data_utils.tables.cohorts``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from data_utils.tables.ajcc import AJCC_COLUMNS
from data_utils.tables.cohorts import Cohort
from utils import constants
from utils.files import read_json

logger = logging.getLogger(__name__)

DAYS_PER_MONTH = 30.44
_CASE_COLUMNS = (
    "case_id",
    "case_submitter_id",
    "project_id",
    "vital_status",
    "days_to_death",
    "days_to_last_follow_up",
    "primary_diagnosis",
)
# GBM and LGG have no AJCC columns; where a column is absent every case lacks the value.
_OPTIONAL_CASE_COLUMNS = ("age_at_index", "year_of_diagnosis", *AJCC_COLUMNS)
_SLIDE_COLUMNS = ("case_submitter_id", "slide_submitter_id")
_MISSING = frozenset(
    {"", "'--", "--", "nan", "na", "n/a", "none", "null", "unknown", "not reported", "not applicable"}
)


# ---------------------------------------------------------------------------- GDC exports
def read_clinical(path: str | Path) -> pd.DataFrame:
    """One row per case of ``clinical.tsv``, raw texts, missing values as None.

    GDC writes several rows per case, one per treatment. They collapse to the first value that is not
    missing in each column; how many cases hold contradicting values is logged.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a column is missing or the table is empty.
    """
    rows = _read_gdc_table(path, _CASE_COLUMNS, _OPTIONAL_CASE_COLUMNS)
    rows = rows[rows["case_submitter_id"].notna() & rows["case_id"].notna()]
    groups = rows.groupby("case_submitter_id", sort=True)
    contradictions = (groups.nunique() > 1).sum()
    for column, count in contradictions[contradictions > 0].items():
        logger.warning("%s: %d cases have several values of %s, the first one counts", path, count, column)
    cases = groups.first().reset_index()
    logger.info("%s: %d cases in %d rows", path, len(cases), len(rows))
    return cases.astype(object).mask(cases.isna(), None)


def read_slides(path: str | Path) -> pd.DataFrame:
    """One row per slide of ``slide.tsv``: ``slide_submitter_id``, ``case_submitter_id``; errors as above."""
    slides = _read_gdc_table(path, _SLIDE_COLUMNS, ())
    return slides.dropna().drop_duplicates("slide_submitter_id").reset_index(drop=True)


def _read_gdc_table(path: str | Path, required: tuple[str, ...], optional: tuple[str, ...]) -> pd.DataFrame:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; export it from the GDC portal (tab separated)")
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    table.columns = [_column_name(column) for column in table.columns]
    table = table.loc[:, ~table.columns.duplicated()]
    missing = [column for column in required if column not in table]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; it has {list(table.columns)[:20]}")
    if table.empty:
        raise ValueError(f"{path} has no rows")
    absent = [column for column in optional if column not in table]
    if absent:
        logger.warning("%s has no columns %s: missing for every case", path, absent)
    table = table.reindex(columns=[*required, *optional]).astype(object)
    text = table.apply(lambda column: column.str.strip())
    return text.where(text.notna() & ~text.apply(lambda column: column.str.lower()).isin(_MISSING), None)


def _column_name(column: str) -> str:
    """Name without the entity that GDC exports since 2024 put in front ("demographic.vital_status")."""
    entity, _, name = column.strip().rpartition(".")
    if name == "submitter_id" and entity in ("cases", "slides"):
        return f"{entity.removesuffix('s')}_submitter_id"
    # These exports repeat field names across entities; ids of other entities must not pass for the case's.
    if name in ("case_id", "project_id") and entity not in ("", "cases", "project"):
        return column
    return name


# ---------------------------------------------------------------------------- cleaning
def clean_cases(raw: pd.DataFrame, cohort: Cohort, source: str | Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Cases as the split files list them, and the reason for every case that had to be left out.

    Args:
        raw: table of :func:`read_clinical`.
        cohort: names projects, diagnoses and classes.
        source: file the rows come from, for messages.

    Returns:
        cases ``[n]`` with the fields of a split row that belong to the patient (durations in months), and
        ``{case_submitter_id: reason}``.

    Raises:
        ValueError: a number is no number.
    """
    cases = raw.copy()
    cases["durations"], cases["vital_status"] = survival(raw, source)
    cases["primary_diagnosis"] = [
        cohort.clean_diagnosis(diagnosis, project)
        for diagnosis, project in zip(raw["primary_diagnosis"], raw["project_id"], strict=True)
    ]
    cases["primary_class"] = [cohort.class_of(diagnosis) for diagnosis in cases["primary_diagnosis"]]
    for column in ("age_at_index", "year_of_diagnosis"):
        cases[column] = _numbers(raw, column, source).round().astype("Int64")

    reasons = pd.Series(None, index=cases.index, dtype=object)
    # The first fault of a case is the one reported, so the last line written is the first one checked.
    reasons[cases["durations"].isna()] = "survival time missing"
    reasons[cases["vital_status"].isna()] = "vital status missing"
    strange = ~cases["project_id"].isin(cohort.projects)
    reasons[strange] = "project " + cases.loc[strange, "project_id"].astype(str) + f" not in {cohort.name}"
    dropped = dict(
        zip(cases.loc[reasons.notna(), "case_submitter_id"], reasons[reasons.notna()], strict=True)
    )
    cases = cases[reasons.isna()].drop(columns=["days_to_death", "days_to_last_follow_up"])
    return cases.astype({"vital_status": int, "durations": float}).reset_index(drop=True), dropped


def survival(raw: pd.DataFrame, source: str | Path = "clinical table") -> tuple[pd.Series, pd.Series]:
    """Survival months and event (1 dead, 0 alive), missing where the tables do not tell.

    Months are days / 30.44 without sign: days to death of the dead (to the last follow-up where that is
    missing), days to the last follow-up of the living.
    """
    event = raw["vital_status"].str.lower().map({"dead": 1.0, "alive": 0.0}).astype(float)
    follow_up = _numbers(raw, "days_to_last_follow_up", source)
    days = _numbers(raw, "days_to_death", source).fillna(follow_up).where(event == 1, follow_up)
    return days.abs() / DAYS_PER_MONTH, event


def _numbers(table: pd.DataFrame, column: str, source: str | Path) -> pd.Series:
    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    wrong = numbers.isna() & table[column].notna()
    if wrong.any():
        row = table[wrong].iloc[0]
        raise ValueError(
            f"{source}: {column} of case {row['case_submitter_id']} is no number: {row[column]!r}"
        )
    return numbers


def is_missing(texts: pd.Series) -> pd.Series:
    """Where a column says in one of the usual ways that a value is not known."""
    return texts.isna() | texts.astype(str).str.strip().str.lower().isin(_MISSING)


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
        ValueError: not the format of a split file, a field is missing, a case stands in two splits, or there
            is no case at all.
    """
    needed = ("case_id", "case_submitter_id", "project_id", "durations", "vital_status", "primary_diagnosis")
    rows: list[dict] = []
    for split, path in paths.items():
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"split file {path} does not exist; write it with data_utils.make_dataset"
            )
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("data"), list):
            raise ValueError(f'{path} is no split file: it must hold {{"data": [one object per slide]}}')
        for number, row in enumerate(content["data"]):
            absent = [key for key in needed if key not in row]
            if absent:
                raise ValueError(f"{path}: row {number} lacks {absent}")
            rows.append({**row, "split": split})
    if not rows:
        raise ValueError(f"the split files {[str(path) for path in paths.values()]} hold no case")
    table = pd.DataFrame(rows)
    for column in (*AJCC_COLUMNS, "age_at_index"):
        if column not in table:
            table[column] = None
    for column in (*AJCC_COLUMNS, "primary_diagnosis"):
        texts = table[column].astype(object)
        table[column] = texts.mask(is_missing(texts), None)
    for column in ("age_at_index", "durations"):
        table[column] = pd.to_numeric(table[column]).astype(float)
    table["vital_status"] = table["vital_status"].astype(int)
    if table["durations"].isna().any():
        raise ValueError(
            f"case {table.loc[table['durations'].isna(), 'case_id'].iloc[0]} has no survival time"
        )
    leaks = table.groupby("case_id")["split"].nunique()
    if (leaks > 1).any():
        raise ValueError(f"cases stand in more than one split: {leaks.index[leaks > 1].tolist()[:5]}")
    return table.drop_duplicates("case_id").reset_index(drop=True)

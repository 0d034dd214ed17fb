"""Clinical features: raw values of a cohort, and the codes that turn them into numbers.

Five numbers per case: age / largest age, then a code each for stage, T, N and M. Texts are reduced to their
category first (data_utils.tables.ajcc); codes number the categories of a column in byte order. The protocol
decides the rest:

- ``published``: learned from all cases; a missing text is the category "Nan", which takes its place in the
  alphabet: before "Stage ..." and "T...", after "N..." and "M...". Where every case has a text there is none.
- ``strict``: learned from the training split; the last code is "unknown", for a missing text and for a
  category that no training case had.

A trained model keeps its codes: on another cohort the same text must be the same number.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from data_utils.tables.ajcc import AJCC_COLUMNS, is_category, reduce_text
from data_utils.tables.tensor_table import read_tensor_table
from data_utils.tables.text_table import read_own_table
from data_utils.tables.values import MAX_AGE, is_finite, is_missing
from utils.configuration.protocol import PROTOCOLS
from utils.files import FileError, read_json

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
NAN = "Nan"
AGE = "age_at_index"
SHAPE = (1 + len(AJCC_COLUMNS),)
_REMEDY = "write it with python -m data_utils.make_clinical"


@dataclass(frozen=True)
class ClinicalCodes:
    """How clinical values become numbers.

    Attributes:
        max_age: divides ages, in years; older cases get a number above 1.
        median_age: stands in for a missing age, in years.
        codes: ``{column: {text: code}}`` for every column of ``AJCC_COLUMNS``.
        missing: the text that stands for a missing one, ``NAN`` (published) or ``UNKNOWN`` (strict).
        reduced: whether the texts are categories; codes saved by older versions number raw texts.
    """

    max_age: float
    median_age: float
    codes: dict[str, dict[str, int]]
    missing: str = UNKNOWN
    reduced: bool = True

    @classmethod
    def fit(cls, cases: pd.DataFrame, protocol: str = "published") -> ClinicalCodes:
        """Learns ages and codes from ``cases`` (columns ``age_at_index`` and ``AJCC_COLUMNS``, raw texts)."""
        rules = PROTOCOLS[protocol]
        ages = cases[AGE].dropna()
        usable = not ages.empty and ages.max() > 0
        if not usable:
            logger.warning("no case has an age: the feature is 0 for all who have none")
        codes = {}
        for column in AJCC_COLUMNS:
            present = cases[column].dropna()
            categories = sorted({reduce_text(text, column) for text in present})
            if not categories:
                logger.warning("no case has %s: the feature is the same for all", column)
            if strange := [text for text in categories if not is_category(text, column)]:
                logger.warning("%s: %s name no AJCC category; each has a code of its own", column, strange)
            if rules.unknown_is_a_category:
                texts = [*categories, UNKNOWN]
            else:
                texts = sorted({*categories, NAN}) if len(present) < len(cases) else categories
            codes[column] = {text: code for code, text in enumerate(texts)}
        return cls(
            float(ages.max()) if usable else 1.0,
            float(ages.median()) if usable else 0.0,
            codes,
            UNKNOWN if rules.unknown_is_a_category else NAN,
        )

    def transform(self, cases: pd.DataFrame) -> Tensor:
        """Features ``[n, 5]``, float32, finite: age, stage, T, N, M.

        A text without a code gets that of a missing one; where no case lacked the text when the codes were
        learned (published), the number after the last code.
        """
        ages = cases[AGE]
        if ages.isna().any():
            logger.warning("%d missing ages set to the median %g", ages.isna().sum(), self.median_age)
        columns = [ages.fillna(self.median_age) / self.max_age]
        for column, codes in self.codes.items():
            texts = cases[column]
            if self.reduced:
                texts = texts.map({text: reduce_text(text, column) for text in set(texts.dropna())})
            texts = texts.astype(object).where(texts.notna(), self.missing)
            fallback = codes.get(self.missing, len(codes))
            strange = ~texts.isin(list(codes))
            if strange.any():
                logger.warning(
                    "%s: %s get the code of unknown (%d of %d cases)",
                    column,
                    sorted(set(texts[strange])),
                    strange.sum(),
                    len(cases),
                )
            columns.append(texts.map(codes).fillna(fallback))
        table = pd.concat(columns, axis=1).astype("float32")
        return torch.from_numpy(table.to_numpy(copy=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str | Path) -> ClinicalCodes:
        """Inverse of :meth:`to_dict`; other keys are ignored. Without ``missing`` they are codes of raw texts.

        Raises:
            ValueError: something is missing or impossible; the message begins with ``where``.
        """
        try:
            codes = {c: {str(t): n for t, n in value["codes"][c].items()} for c in AJCC_COLUMNS}
            numbers = [n for part in codes.values() for n in part.values()]
            if odd := [n for n in numbers if not is_finite(n) or not float(n).is_integer()]:
                raise ValueError(f"{str(odd[0])[:40]!r} is no code")
            if any(isinstance(value[name], bool) for name in ("max_age", "median_age")):
                raise ValueError("ages are no numbers")
            codes = {c: {t: int(n) for t, n in part.items()} for c, part in codes.items()}
            max_age, median_age = float(value["max_age"]), float(value["median_age"])
            missing, reduced = value.get("missing", UNKNOWN), bool(value.get("reduced", False))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise FileError(where, f"holds no clinical codes ({error!r})", _REMEDY) from error
        lacking = [column for column, numbers in codes.items() if UNKNOWN not in numbers]
        if missing not in (NAN, UNKNOWN) or (missing == UNKNOWN and lacking):
            fault = (
                f': impossible clinical codes: missing texts are {missing!r}, without "{UNKNOWN}" {lacking}'
            )
            raise FileError(where, fault, _REMEDY)
        if not max_age > 0 or not np.isfinite([max_age, median_age]).all():
            fault = f": impossible clinical codes: max_age {max_age}, median_age {median_age}"
            raise FileError(where, fault, _REMEDY)
        return cls(max_age, median_age, codes, missing, reduced)


# ---------------------------------------------------------------------------- tables of a cohort
@dataclass(frozen=True)
class RawClinical:
    """Raw clinical values of a cohort; every run learns its own codes or applies those of a trained model.

    Attributes:
        values: columns ``age_at_index`` and ``AJCC_COLUMNS``, index = ids of the cases; missing texts are
            None, missing ages NaN.
    """

    values: pd.DataFrame

    @property
    def ids(self) -> list[str]:
        return list(self.values.index)

    def strange_texts(self) -> dict[str, list[str]]:
        """Texts that name no AJCC category, by column."""
        texts = {column: sorted(set(self.values[column].dropna())) for column in AJCC_COLUMNS}
        odd = {c: [t for t in found if not is_category(reduce_text(t, c), c)] for c, found in texts.items()}
        return {column: found for column, found in odd.items() if found}

    def fit(self, only: Collection[str] | None = None) -> ClinicalCodes:
        """The codes of all cases (published), or of those with the ids given (strict).

        Raises:
            ValueError: no case has one of the ids.
        """
        cases = self.values if only is None else self.values[self.values.index.isin(list(only))]
        if cases.empty:
            raise ValueError("no training case has clinical features to learn codes from")
        return ClinicalCodes.fit(cases, "published" if only is None else "strict")

    def encode(self, codes: ClinicalCodes | None) -> dict[str, Tensor]:
        """``{case: [5]}`` by the codes given.

        Raises:
            ValueError: there are none, because the trained weights do not hold any.
        """
        if codes is None:
            raise ValueError(
                "the trained weights hold no clinical codes (published weights never do): pass --clinical_location "
                "as tensors made with the codes of the training (python -m data_utils.make_clinical --codes)"
            )
        return dict(zip(self.ids, codes.transform(self.values).unbind(), strict=True))


@dataclass(frozen=True)
class EncodedClinical:
    """Clinical features in the published layout ``{case: [5]}``, whose numbers are as they are.

    Attributes:
        path: the file.
        tensors: its content.
        codes: what its numbers mean, where ``<file>_codes.json`` lies beside it.
        protocol: of these codes.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    codes: ClinicalCodes | None = None
    protocol: str | None = None

    @property
    def ids(self) -> list[str]:
        return list(self.tensors)

    def strange_texts(self) -> dict[str, list[str]]:
        """None: only numbers are known."""
        return {}

    def fit(self, only: Collection[str] | None = None) -> ClinicalCodes | None:
        """The codes of the file, None where they are unknown.

        Raises:
            ValueError: the codes should come from some of the cases only, and came from all.
        """
        if only is not None and self.protocol == "published":
            raise FileError(
                self.path,
                "was made with --protocol published, its codes come from all cases",
                f"pass the raw values {self.path.with_suffix('.csv')}, or make it with --protocol strict",
            )
        if only is not None and self.codes is None:
            logger.warning("%s: not known which cases its codes come from", self.path)
        return self.codes

    def encode(self, codes: ClinicalCodes | None) -> Mapping[str, Tensor]:
        """The content; ``codes`` are only compared.

        Raises:
            ValueError: the file was made with other codes, so its numbers mean something else.
        """
        if codes is None or self.codes is None:
            logger.warning("%s: not known whether its codes are those of the model", self.path)
        elif codes != self.codes:
            raise FileError(
                self.path,
                "was made with other codes than those of the trained model, so its numbers mean something else",
                f"pass the raw values {self.path.with_suffix('.csv')}",
            )
        return self.tensors


ClinicalTable = RawClinical | EncodedClinical


def read_clinical_table(path: str | Path) -> ClinicalTable:
    """Reads raw values (``.csv``, as make_clinical writes them) or features ``{case: [5]}`` (any other).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else; file and case are named.
    """
    path = Path(path)
    if path.suffix == ".csv":
        return RawClinical(_read_values(path))
    tensors = _with_ages(path, read_tensor_table(path, SHAPE, _REMEDY, may_lack=(0,)))
    beside = codes_path(path)
    if not beside.is_file():
        return EncodedClinical(path, tensors)
    content = read_json(beside)
    return EncodedClinical(path, tensors, ClinicalCodes.from_dict(content, beside), content.get("protocol"))


def _with_ages(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Puts the median for missing ages, as :meth:`ClinicalCodes.transform`; the published script leaves NaN there."""
    ages = torch.stack([row[0] for row in tensors.values()]) if tensors else torch.zeros(0)
    known = ages[~ages.isnan()]
    if len(known) == len(ages):
        return dict(tensors)
    median = float(np.median(known.numpy())) if len(known) else 0.0
    lacking = [case for case, age in zip(tensors, ages, strict=True) if age.isnan()]
    logger.warning(
        "%s: %d of %d ages are missing, such as that of %s, and set to the median (%.3g of the largest age)",
        path,
        len(lacking),
        len(ages),
        lacking[0],
        median,
    )
    return {
        case: torch.cat([row.new_tensor([median]), row[1:]]) if row[0].isnan() else row
        for case, row in tensors.items()
    }


def codes_path(path: Path) -> Path:
    """Where the codes of a table of clinical features lie."""
    return path.with_name(f"{path.stem}_codes.json")


def _read_values(path: Path) -> pd.DataFrame:
    table = read_own_table(path, "table of clinical values", _REMEDY)
    needed = ("case_id", AGE, *AJCC_COLUMNS)
    if lacking := [column for column in needed if column not in table]:
        raise FileError(path, f"lacks the columns {lacking}", _REMEDY)
    table = table[list(needed)].set_index("case_id")
    if table.empty or table.index.has_duplicates:
        twice = table.index[table.index.duplicated()][:5].tolist()
        raise FileError(path, f": cases stand twice: {twice}" if twice else "holds no case", _REMEDY)
    table = table.apply(lambda column: column.astype(object).where(~is_missing(column), None))
    ages = pd.to_numeric(table[AGE], errors="coerce").astype(float)
    wrong = (ages.isna() & table[AGE].notna()) | ~np.isfinite(ages.fillna(0)) | (ages < 0) | (ages > MAX_AGE)
    if wrong.any():
        case = wrong.index[wrong][0]
        fault = f": age_at_index of case {case} is no age in years: {table.at[case, AGE]!r}"
        raise FileError(path, fault, "correct the row")
    return table.assign(**{AGE: ages})

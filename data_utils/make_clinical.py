"""Writes the clinical features of a cohort: ``python -m data_utils.make_clinical --onco BRCA``.

Five numbers per case: age / largest age, then a code each for stage, T, N and M. Codes number the texts of
a column in alphabetical order; "unknown" comes last and stands for a missing text and, under the strict
protocol, for one that no training case has. The numbers behind the features go to ``<output>_codes.json``.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from data_utils.tcga import AJCC_COLUMNS, read_split_cases, split_paths
from utils import constants
from utils.files import atomic_path, setup_logging, write_json

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"


@dataclass(frozen=True)
class ClinicalCodes:
    """How clinical values become numbers.

    Attributes:
        max_age: divides ages, in years.
        median_age: stands in for a missing age, in years.
        codes: ``{column: {text: code}}`` for every column of ``AJCC_COLUMNS``.
    """

    max_age: float
    median_age: float
    codes: dict[str, dict[str, int]]

    @classmethod
    def fit(cls, cases: pd.DataFrame) -> ClinicalCodes:
        """Learns ages and codes from ``cases`` (columns ``age_at_index`` and ``AJCC_COLUMNS``)."""
        ages = cases["age_at_index"].dropna()
        if ages.empty or not ages.max() > 0:
            logger.warning("no case has an age: the feature is 0 for all")
        codes = {}
        for column in AJCC_COLUMNS:
            texts = sorted(set(cases[column].dropna()))
            if not texts:
                logger.warning("no case has %s: the feature is the same for all", column)
            codes[column] = {text: code for code, text in enumerate([*texts, UNKNOWN])}
        usable = not ages.empty and ages.max() > 0
        return cls(float(ages.max()) if usable else 1.0, float(ages.median()) if usable else 0.0, codes)

    def transform(self, cases: pd.DataFrame) -> Tensor:
        """Features ``[n, 5]``, float32: age, stage, T, N, M."""
        ages = cases["age_at_index"]
        if ages.isna().any():
            logger.warning("%d missing ages set to the median %g", ages.isna().sum(), self.median_age)
        columns = [ages.fillna(self.median_age) / self.max_age]
        for column, codes in self.codes.items():
            texts = cases[column].where(cases[column].notna(), UNKNOWN)
            strange = ~texts.isin(list(codes))
            if strange.any():
                logger.warning("%s: %s get the code of unknown", column, sorted(set(texts[strange])))
            columns.append(texts.where(~strange, UNKNOWN).map(codes))
        table = pd.concat(columns, axis=1).astype("float32")
        return torch.from_numpy(table.to_numpy(copy=True))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--onco", required=True, type=str.upper, help="cohort, such as BRCA")
    parser.add_argument("--features_encoder", default="gigapath", help="which split files to read")
    parser.add_argument("--splits_dir", type=Path, help="folder of the split files (default: constants)")
    parser.add_argument("--output", type=Path, help="{case_id: [5]} (default: constants)")
    parser.add_argument(
        "--protocol",
        choices=("published", "strict"),
        default="published",
        help="ages and codes from all cases (published) or from the training split (strict)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    setup_logging()
    output = args.output or constants.clinical_tensors(args.onco)
    cases = read_split_cases(split_paths(args.onco, args.features_encoder, args.splits_dir))
    learned_from = cases[cases["split"] == "train"] if args.protocol == "strict" else cases
    codes = ClinicalCodes.fit(learned_from)
    features = codes.transform(cases)
    if not torch.isfinite(features).all():
        raise ValueError(f"clinical features of {args.onco} are not finite")
    with atomic_path(output) as temporary:
        torch.save(
            {case: row.clone() for case, row in zip(cases["case_id"], features, strict=True)}, temporary
        )
    write_json(
        output.with_name(f"{output.stem}_codes.json"),
        {"protocol": args.protocol, "cases": len(learned_from), **asdict(codes)},
    )
    logger.info("%d cases (%s protocol) -> %s", len(cases), args.protocol, output)


if __name__ == "__main__":
    raise SystemExit(main())

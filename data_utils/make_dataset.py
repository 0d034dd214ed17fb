"""Writes the split files of a cohort: ``python -m data_utils.make_dataset --onco BRCA``.

Joins GDC tables, patch features and the gene table into one row per slide, and splits by patient: 20 % test,
15 % of the rest validation, stratified by class. Cases without a class, and unless --split_without_genes those
without expression, are in the training split only. What was left out and why is written to
``dropped_{onco}.csv`` beside the splits, which rows of a case contradict each other to ``contradictions_{onco}.csv``.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from data_utils.features.folder import FeatureFolder
from data_utils.features.slide_names import slide_of
from data_utils.features.store import FEATURE_SUFFIXES, FeatureFileError, num_patches
from data_utils.tables.ajcc import AJCC_COLUMNS
from data_utils.tables.cohorts import Cohort, load_cohort, read_cohort
from data_utils.tables.gdc import clean_cases, read_clinical, read_slides, split_paths, strange_texts
from data_utils.tables.genes import read_gene_table
from utils import constants
from utils.barcodes import patient_of
from utils.files import atomic_path, setup_logging, write_json

logger = logging.getLogger(__name__)

WITHOUT = Path("none")  # in place of a gene table
TEST_SHARE = 0.20
VAL_SHARE = 0.15
_CASE_FIELDS = (
    "case_id",
    "case_submitter_id",
    "project_id",
    "primary_diagnosis",
    "primary_class",
    "durations",
    "vital_status",
    "age_at_index",
    *AJCC_COLUMNS,
    "year_of_diagnosis",
    "gene_availability",
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--onco", required=True, type=str.upper, help="cohort, such as BRCA")
    parser.add_argument("--features_encoder", default="gigapath", help="patch encoder the features come from")
    parser.add_argument("--cohort_json", type=Path, help="cohort definition (default: constants)")
    parser.add_argument("--clinical", type=Path, help="GDC clinical.tsv (default: constants)")
    parser.add_argument("--slides", type=Path, help="GDC slide.tsv (default: constants)")
    parser.add_argument("--features_dir", type=Path, help="feature files of the cohort (default: constants)")
    parser.add_argument(
        "--genomics_csv_path",
        type=Path,
        help="case x gene table (default: constants); none for a cohort without expression",
    )
    parser.add_argument(
        "--split_without_genes",
        action="store_true",
        help="split cases without expression like all others, for models that do without",
    )
    parser.add_argument("--splits_dir", type=Path, help="where the split files go (default: constants)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    setup_logging()
    cohort = read_cohort(args.cohort_json) if args.cohort_json else load_cohort(args.onco)
    clinical_path = args.clinical or constants.clinical_table(args.onco)
    slides_path = args.slides or constants.slide_table(args.onco)
    features_dir = args.features_dir or constants.feature_dir(args.onco, args.features_encoder)
    genes_path = args.genomics_csv_path or constants.gene_table(args.onco)
    outputs = split_paths(args.onco, args.features_encoder, args.splits_dir)

    export = read_clinical(clinical_path)
    cases, left_out = clean_cases(export.cases, cohort, clinical_path)
    strange = [("", case, reason) for case, reason in strange_texts(cases, clinical_path)]
    listed = read_slides(slides_path)
    features, unusable, strays = find_features(features_dir, listed["slide_submitter_id"])
    slides, dropped = join_slides(listed, cases, left_out, features, unusable, strays)
    if not slides:
        sources = (clinical_path, slides_path, features_dir)
        names = {*features, *unusable, *(slide_of(file.name) for file in strays)}
        raise ValueError(_nothing_matches(cases, names, dropped, sources))
    cases = cases[cases["case_submitter_id"].isin({case for _, case, _ in slides})].copy()
    without_genes = genes_path == WITHOUT
    cases["gene_availability"] = 0 if without_genes else _gene_availability(cases, genes_path)
    _check_classes(cases, cohort)

    split_of = split_cases(cases, without_genes or args.split_without_genes)
    rows = split_rows(cases, slides, split_of)
    for split, path in outputs.items():
        write_json(path, {"data": rows[split]})
        count = len({row["case_id"] for row in rows[split]})
        logger.info("%s: %d cases, %d slides -> %s", split, count, len(rows[split]), path)
        if not rows[split]:
            logger.warning("the %s split is empty: too few cases with a class and expression", split)
    suffix = "" if args.features_encoder == "gigapath" else f"_{args.features_encoder}"
    folder = outputs["train"].parent
    _write_dropped([*dropped, *strange], folder / f"dropped_{args.onco.lower()}{suffix}.csv")
    notes = folder / f"contradictions_{args.onco.lower()}{suffix}.csv"
    with atomic_path(notes) as temporary:
        export.notes.to_csv(temporary, index=False)
    if count := export.notes["case_submitter_id"].nunique():
        logger.warning("the rows of %d cases contradict each other: what was taken is in %s", count, notes)


# ---------------------------------------------------------------------------- joining
Dropped = list[tuple[str, str, str]]  # slide barcode, case barcode, reason


def find_features(folder: Path, slides: Iterable[str]) -> tuple[dict[str, Path], dict[str, str], list[Path]]:
    """Readable feature files of the slides named (see :mod:`data_utils.features.slide_names`).

    Of several readable files for a slide the first in alphabetical order counts.

    Returns:
        ``{slide: file}``, ``{slide: fault}`` of slides without a readable file, and files of no slide.

    Raises:
        FileNotFoundError: the folder does not exist or holds no feature file.
        ValueError: a slide and a file differ in upper and lower case only.
    """
    try:
        files = FeatureFolder(folder)
    except (NotADirectoryError, ValueError) as error:
        raise FileNotFoundError(
            f"no feature files ({', '.join(FEATURE_SUFFIXES)}) in {folder}; extract them first "
            "(scripts/submit_extract_patches.sh) or point --features_dir to them"
        ) from error
    found: dict[str, Path] = {}
    faults: dict[str, str] = {}
    used: set[Path] = set()
    for slide in tqdm(sorted(set(slides)), desc="feature files", disable=None):
        candidates = files.slides.candidates(slide)
        used.update(candidates)
        for file in candidates:
            if slide in found:
                logger.warning("slide %s has a second feature file %s, which is left out", slide, file)
                continue
            try:
                num_patches(file)
            except FeatureFileError as error:
                faults[slide] = f"feature file cannot be read: {error}"
            else:
                found[slide] = file
    faults = {slide: fault for slide, fault in faults.items() if slide not in found}
    return found, faults, [file for file in files.files if file not in used]


def join_slides(
    slides: pd.DataFrame,
    cases: pd.DataFrame,
    left_out: Mapping[str, str],
    features: Mapping[str, Path],
    unusable: Mapping[str, str],
    strays: Sequence[Path] = (),
) -> tuple[list[tuple[str, str, Path]], Dropped]:
    """Slides that have everything (slide barcode, case barcode, feature file), and those that have not."""
    usable = set(cases["case_submitter_id"])
    listed = dict(zip(slides["slide_submitter_id"], slides["case_submitter_id"], strict=True))
    matched: list[tuple[str, str, Path]] = []
    dropped: Dropped = []
    for slide, case in sorted(listed.items()):
        if case in left_out:
            dropped.append((slide, case, left_out[case]))
        elif case not in usable:
            dropped.append((slide, case, "no clinical row"))
        elif slide not in features:
            dropped.append((slide, case, unusable.get(slide, "no feature file")))
        else:
            matched.append((slide, case, features[slide]))
    names = sorted({slide_of(file.name) for file in strays} | ({*features, *unusable} - set(listed)))
    dropped += [(slide, patient_of(slide), "not in slide.tsv") for slide in names]
    without = sorted((usable | set(left_out)) - set(listed.values()))
    dropped += [("", case, left_out.get(case, "no slide in slide.tsv")) for case in without]
    return matched, dropped


def _gene_availability(cases: pd.DataFrame, path: Path) -> list[int]:
    known = set(read_gene_table(path).index)
    available = cases["case_submitter_id"].isin(known).astype(int).tolist()
    if not any(available):
        raise ValueError(
            f"no case has a row in {path}: cases such as {cases['case_submitter_id'].head(3).tolist()}, "
            f"rows such as {sorted(known)[:3]}"
        )
    logger.info("%d of %d cases have expression", sum(available), len(available))
    return available


def _check_classes(cases: pd.DataFrame, cohort: Cohort) -> None:
    rare = cases.loc[cases["primary_class"] < 0, "primary_diagnosis"].fillna("missing").value_counts()
    logger.info("classes: %s", cases["primary_class"].value_counts().sort_index().to_dict())
    if len(rare) and rare.sum() == len(cases):
        raise ValueError(
            f"no diagnosis is in a class of cohort {cohort.name}: diagnoses such as "
            f"{rare.index[:5].tolist()}, classes {[list(members) for members in cohort.classes]}; "
            "edit its definition"
        )
    if len(rare):
        logger.info("class -1 (text objective only): %s", rare.to_dict())


def _nothing_matches(
    cases: pd.DataFrame, features: set[str], dropped: Dropped, sources: tuple[Path, Path, Path]
) -> str:
    clinical_path, slides_path, features_dir = sources
    reasons = pd.Series([reason for _, _, reason in dropped]).value_counts().head(5).to_dict()
    return (
        f"no slide is left: {len(cases)} usable cases in {clinical_path} such as "
        f"{cases['case_submitter_id'].head(3).tolist()}; feature files of {len(features)} slides in "
        f"{features_dir} such as {sorted(features)[:3]}; slides of {slides_path} fail by {reasons}"
    )


# ---------------------------------------------------------------------------- splitting
def split_cases(cases: pd.DataFrame, without_genes: bool = False) -> dict[str, str]:
    """``{case_id: split}``, by patient, the same for the same cases in any order.

    Cases are sorted by ``case_id`` before each of the two draws, which gives the published BLCA and COADREAD
    splits.

    Args:
        cases: ``case_id, primary_class, gene_availability``.
        without_genes: cases without expression are validated and tested on, too.
    """
    has_genes = (cases["gene_availability"] == 1) | without_genes
    eligible = cases[(cases["primary_class"] >= 0) & has_genes].sort_values("case_id")
    classes = dict(zip(eligible["case_id"], eligible["primary_class"], strict=True))
    rest, test = _hold_out(classes, TEST_SHARE, "test")
    _, val = _hold_out(rest, VAL_SHARE, "val")
    split_of = dict.fromkeys(cases["case_id"], "train")
    return {**split_of, **dict.fromkeys(test, "test"), **dict.fromkeys(val, "val")}


def _hold_out(classes: Mapping[str, int], share: float, split: str) -> tuple[dict[str, int], dict[str, int]]:
    """The rest of ``{case: class}``, sorted by case, and a random ``share`` of it, stratified if possible."""
    if len(classes) < 2:
        logger.warning("only %d cases left: none for the %s split", len(classes), split)
        return dict(classes), {}
    cases, labels = list(classes), list(classes.values())
    counts = pd.Series(labels).value_counts()
    held_out = math.ceil(share * len(cases))
    stratify: list[int] | None = labels
    if counts.min() < 2 or len(counts) > min(held_out, len(cases) - held_out):
        logger.warning("too few cases to stratify the %s split by class %s", split, counts.to_dict())
        stratify = None
    rest, chosen = train_test_split(cases, test_size=share, random_state=0, stratify=stratify)
    return {case: classes[case] for case in sorted(rest)}, {case: classes[case] for case in chosen}


def split_rows(
    cases: pd.DataFrame, slides: list[tuple[str, str, Path]], split_of: Mapping[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """Rows of the split files, one per slide, ordered by case and slide."""
    by_barcode = {case["case_submitter_id"]: case for case in cases.to_dict("records")}
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in constants.SPLITS}
    for slide, barcode, file in slides:
        case = by_barcode[barcode]
        row = {field: None if pd.isna(case[field]) else case[field] for field in _CASE_FIELDS}
        row |= {"slide_submitter_id": slide, "features_path": _relative(file)}
        rows[split_of[case["case_id"]]].append(row)
    for part in rows.values():
        part.sort(key=lambda row: (row["case_id"], row["slide_submitter_id"]))
    return rows


def _relative(file: Path) -> str:
    root = constants.FEATURES_ROOT.resolve()
    file = file.resolve()
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def _write_dropped(dropped: Dropped, path: Path) -> None:
    table = pd.DataFrame(dropped, columns=["slide_submitter_id", "case_submitter_id", "reason"])
    with atomic_path(path) as temporary:
        table.sort_values(list(table.columns)).to_csv(temporary, index=False)
    # Reasons that quote a file are counted together.
    counts = table["reason"].str.replace(r":.*", "", regex=True).value_counts().to_dict()
    logger.info("left out %d slides, cases or values: %s -> %s", len(table), counts, path)


if __name__ == "__main__":
    main()

"""Writes the split files of a cohort: ``python -m data_utils.make_dataset --onco BRCA``.

Joins GDC tables, patch features and the gene table into one row per slide, and splits by patient: 20 % test,
15 % of the rest validation, stratified by class. Cases without a class, and unless --split_without_genes those
without expression, are in the training split only. What was left out and why is written to
``dropped_{onco}.csv`` beside the splits, which rows of a case contradict each other to ``contradictions_{onco}.csv``.

``--table cohort.csv`` takes the table of a user's own cohort instead (CSV, TSV, XLSX, parquet). Its columns are named
in the cohort file ``dataset/cohorts/{onco}.json``, or by --columns; where there is no cohort file, one is written.
``--further`` and ``--tasks`` keep columns of either table for tasks of your own.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from data_utils.cases.own_cohort import OwnCohortFlags, read_definition, split_own_cohort
from data_utils.cases.slide_kinds import ALL, KINDS, choose_slides
from data_utils.cases.splitting import Dropped, split_cases, split_rows, write_dropped, write_splits
from data_utils.features.slide_names import slide_of
from data_utils.features.usable import find_features
from data_utils.tables.ajcc import AJCC_COLUMNS
from data_utils.tables.cohort_table import ALIVE, DEAD, ROLES, SPLIT_FIELDS, UNITS, check_further
from data_utils.tables.cohorts import Cohort, cohort_name, load_cohort, read_cohort
from data_utils.tables.gdc import (
    CONTRADICTIONS,
    clean_cases,
    read_clinical,
    read_slides,
    split_paths,
    strange_texts,
)
from data_utils.tables.genes import read_gene_table
from data_utils.tables.tasks import read_tasks
from utils import constants
from utils.barcodes import is_normal_tissue, misnamed, patient_of
from utils.files import FileError, atomic_path, check_writable, quoted, setup_logging

logger = logging.getLogger(__name__)

WITHOUT = Path("none")  # in place of a gene table
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
    parser.add_argument("--onco", required=True, type=cohort_name, help="cohort, such as BRCA")
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
    parser.add_argument(
        "--slide_kind",
        choices=(ALL, *KINDS),
        default=ALL,
        help="slides of TCGA to take: diagnostic (dx), frozen sections, or all as published (default)",
    )
    parser.add_argument("--splits_dir", type=Path, help="where the split files go (default: constants)")
    parser.add_argument(
        "--further",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="further columns of the clinical table (or of --table) to keep, for tasks of your own",
    )
    parser.add_argument("--tasks", type=Path, help="task file, whose columns are kept, too")
    own = parser.add_argument_group("own cohort")
    own.add_argument("--table", type=Path, help="one row a patient or a slide: .csv, .tsv, .xlsx, .parquet")
    own.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="ROLE=COLUMN",
        help=f"which column is what, in place of the cohort file: {', '.join(ROLES)}",
    )
    own.add_argument("--time_unit", choices=tuple(UNITS), help="unit of the time column")
    own.add_argument(
        "--dead",
        nargs="+",
        metavar="VALUE",
        help=f"values of the event column that mean dead (default: {', '.join(DEAD)})",
    )
    own.add_argument(
        "--alive",
        nargs="+",
        metavar="VALUE",
        help=f"values of the event column that mean alive (default: {', '.join(ALIVE)})",
    )
    own.add_argument("--site", help="words after 'Cancer location:' of a cohort file that is written")
    own.add_argument(
        "--slide_pattern",
        help="regular expression with one group, the patient, for the names of feature files; without it and without "
        "a slide column, a slide is of the patient whose id its name begins with",
    )
    own.add_argument(
        "--split", metavar="COLUMN", help="column that holds train, val or test for every patient"
    )
    own.add_argument(
        "--site_column",
        metavar="COLUMN",
        help="column of the hospital; all patients of one go into the same split",
    )
    args = parser.parse_args(argv)
    if args.split and args.site_column:
        parser.error("--split takes the split as it is; leave out --site_column")
    own_flags = (
        "columns",
        "time_unit",
        "dead",
        "alive",
        "site",
        "slide_pattern",
        "split",
        "site_column",
    )
    if args.table is None and (given := [f"--{name}" for name in own_flags if getattr(args, name)]):
        parser.error(f"{', '.join(given)}: these are for --table")
    if unusable := [text for text in args.columns if "=" not in text]:
        parser.error(f"--columns {unusable}: write ROLE=COLUMN, such as patient=ID")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    setup_logging()
    if args.table is not None:
        write_own_cohort(args)
        return
    cohort = read_cohort(args.cohort_json) if args.cohort_json else load_cohort(args.onco)
    definition = args.cohort_json or constants.cohort_file(args.onco)
    clinical_path = args.clinical or constants.clinical_table(args.onco)
    slides_path = args.slides or constants.slide_table(args.onco)
    features_dir = args.features_dir or constants.feature_dir(args.onco, args.features_encoder)
    genes_path = args.genomics_csv_path or constants.gene_table(args.onco)
    outputs = split_paths(args.onco, args.features_encoder, args.splits_dir)
    check_writable(outputs["train"].parent)

    further = _further(args)
    check_further(further, str(clinical_path))
    export = read_clinical(clinical_path, further)
    cases, left_out = clean_cases(export.cases, cohort, clinical_path)
    strange = [("", case, reason) for case, reason in strange_texts(cases, clinical_path)]
    listed = read_slides(slides_path)
    known = {*cases["case_submitter_id"], *left_out}
    _check_spelling(clinical_path, known, str(slides_path), listed["case_submitter_id"])
    features, unusable, strays = find_features(features_dir, listed["slide_submitter_id"])
    slides, dropped = join_slides(listed, cases, left_out, features, unusable, strays)
    slides, other_kind = choose_slides(slides, args.slide_kind)
    dropped += other_kind
    if not slides:
        sources = (clinical_path, slides_path, features_dir, definition)
        names = {*features, *unusable, *(slide_of(file.name) for file in strays)}
        raise _nothing_matches(cases, names, dropped, sources)
    cases = cases[cases["case_submitter_id"].isin({case for _, case, _ in slides})].copy()
    without_genes = genes_path == WITHOUT
    cases["gene_availability"] = 0 if without_genes else _gene_availability(cases, genes_path)
    _check_classes(cases, cohort, definition)
    _warn_of_typos(cases, cohort, typed=False)

    split_of = split_cases(cases, without_genes or args.split_without_genes)
    write_splits(split_rows(cases, slides, split_of, (*_CASE_FIELDS, *further)), outputs)
    folder = outputs["train"].parent
    write_dropped([*dropped, *strange], folder / dropped_file(args.onco, args.features_encoder))
    notes = folder / dropped_file(args.onco, args.features_encoder).replace("dropped", CONTRADICTIONS, 1)
    with atomic_path(notes) as temporary:
        export.notes.to_csv(temporary, index=False)
    if count := export.notes["case_submitter_id"].nunique():
        logger.warning("the rows of %d cases contradict each other: what was taken is in %s", count, notes)


def write_own_cohort(args: argparse.Namespace) -> None:
    """The split files of a user's own cohort."""
    genes_path = args.genomics_csv_path or constants.gene_table(args.onco)
    if args.genomics_csv_path is None and not genes_path.is_file():
        logger.warning("there is no gene table %s: the cohort is taken to be without expression", genes_path)
        genes_path = WITHOUT
    flags = OwnCohortFlags(
        columns=dict(text.split("=", 1) for text in args.columns),
        time_unit=args.time_unit,
        dead=args.dead,
        alive=args.alive,
        further=_further(args),
        slide_pattern=args.slide_pattern,
        split=args.split,
        hospital=args.site_column,
        site=args.site,
    )
    definition = read_definition(args.onco, args.cohort_json, args.table, flags)
    features_dir = args.features_dir or constants.feature_dir(args.onco, args.features_encoder)
    outputs = split_paths(args.onco, args.features_encoder, args.splits_dir)
    check_writable(outputs["train"].parent)
    cases, slides, dropped = definition.join(features_dir)
    slides, other_kind = choose_slides(slides, args.slide_kind)
    dropped += other_kind
    if not slides:
        raise FileError(features_dir, f"holds no slide of --slide_kind {args.slide_kind}", "pass another")
    cases = cases[cases["case_id"].isin([case for _, case, _ in slides])].reset_index(drop=True)
    cases["gene_availability"] = 0 if genes_path == WITHOUT else _gene_availability(cases, genes_path)
    if definition.cohort.classes:
        _check_classes(cases, definition.cohort, args.cohort_json or constants.cohort_file(args.onco))
        _warn_of_typos(cases, definition.cohort, typed=True)
    dropped += [("", case, reason) for case, reason in strange_texts(cases, args.table)]
    needs_genes = genes_path != WITHOUT and not args.split_without_genes
    split_of = split_own_cohort(cases, flags, needs_genes, args.table, dropped)
    fields = [name for name in cases.columns if name != "split"]
    slides = [entry for entry in slides if entry[1] in split_of]
    rows = split_rows(cases, slides, split_of, fields)
    definition.write_if_new()
    write_splits(rows, outputs)
    write_dropped(dropped, outputs["train"].parent / dropped_file(args.onco, args.features_encoder))


def _further(args: argparse.Namespace) -> tuple[str, ...]:
    """Columns to keep: those of the flag, and those of the tasks that are not made from others."""
    of_tasks = () if args.tasks is None else read_tasks(args.tasks).fields
    return tuple(dict.fromkeys([*args.further, *(name for name in of_tasks if name not in SPLIT_FIELDS)]))


def dropped_file(onco: str, encoder: str) -> str:
    """Name of the list of what was left out."""
    return f"dropped_{onco.lower()}{'' if encoder == 'gigapath' else f'_{encoder}'}.csv"


# ---------------------------------------------------------------------------- joining
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
        elif is_normal_tissue(slide):
            dropped.append((slide, case, "normal tissue"))
        elif slide not in features:
            dropped.append((slide, case, unusable.get(slide, "no feature file")))
        else:
            matched.append((slide, case, features[slide]))
    names = sorted({slide_of(file.name) for file in strays} | ({*features, *unusable} - set(listed)))
    dropped += [(slide, patient_of(slide), "not in slide.tsv") for slide in names]
    without = sorted((usable | set(left_out)) - set(listed.values()))
    dropped += [("", case, left_out.get(case, "no slide in slide.tsv")) for case in without]
    return matched, dropped


def _check_spelling(path: Path, names: Iterable[str], beside: str, others: Iterable[str]) -> None:
    """A patient of another spelling would be left out of both tables' common ones."""
    if fault := misnamed(names, others):
        raise FileError(path, f"and {beside}: {fault}", "write them alike")


def _gene_availability(cases: pd.DataFrame, path: Path) -> list[int]:
    known = set(read_gene_table(path).index)
    available = cases["case_submitter_id"].isin(known).astype(int).tolist()
    if not any(available):
        fault = (
            f"has a row for no case: cases such as {cases['case_submitter_id'].head(3).tolist()}, rows such as "
            f"{sorted(known)[:3]}"
        )
        raise FileError(
            path, fault, "its rows should be the cases, by the same identifiers, and its columns the genes"
        )
    _check_spelling(path, known, "the cohort", cases["case_submitter_id"])
    logger.info("%d of %d cases have expression", sum(available), len(available))
    return available


def _check_classes(cases: pd.DataFrame, cohort: Cohort, definition: Path) -> None:
    rare = cases.loc[cases["primary_class"] < 0, "primary_diagnosis"].fillna("missing").value_counts()
    logger.info("classes: %s", cases["primary_class"].value_counts().sort_index().to_dict())
    if len(rare) and rare.sum() == len(cases):
        such = [quoted(name, 50) for name in rare.index[:3]]
        classes = quoted(str([list(members) for members in cohort.classes]), 100)
        fault = f": no diagnosis is in a class of cohort {cohort.name}: diagnoses such as {such}"
        raise FileError(definition, fault, f"edit its classes {classes}")
    if len(rare):
        logger.info("class -1 (text objective only): %s", rare.to_dict())


def _warn_of_typos(cases: pd.DataFrame, cohort: Cohort, typed: bool) -> None:
    """A value that has the letters of a class, or in a table that somebody typed nearly is one, is likely meant."""
    members = [member for names in cohort.classes for member in names]
    letters = {_letters(member): member for member in members}
    others = cases.loc[cases["primary_class"] < 0, "primary_diagnosis"].dropna().value_counts()
    for name, count in others.items():
        near = [letters[own]] if (own := _letters(str(name))) in letters else []
        if near := near or (difflib.get_close_matches(str(name), members, 1, 0.8) if typed else []):
            logger.warning(
                "%d patients are of %r, which is in no class; was %r meant?",
                count,
                quoted(str(name), 60),
                near[0],
            )


def _letters(diagnosis: str) -> str:
    return re.sub(r"[^0-9a-z+-]", "", diagnosis).removesuffix("nos")


def _nothing_matches(
    cases: pd.DataFrame, features: set[str], dropped: Dropped, sources: tuple[Path, ...]
) -> FileError:
    clinical_path, slides_path, features_dir, definition = sources
    reasons = pd.Series([reason for _, _, reason in dropped]).value_counts().head(5).to_dict()
    return FileError(
        slides_path,
        f": no slide is left; slides fail by {reasons}",
        f"there are {len(cases)} usable cases in {clinical_path} such as "
        f"{cases['case_submitter_id'].head(3).tolist()}, feature files of {len(features)} slides in "
        f"{features_dir} such as {sorted(features)[:3]}; the projects are those of {definition}",
    )


if __name__ == "__main__":
    main()

"""Who is in training, validation and test, and the rows of the split files."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from utils import constants
from utils.files import atomic_path, write_json

logger = logging.getLogger(__name__)

TEST_SHARE = 0.20
VAL_SHARE = 0.15
# Divisions of the hospitals that are tried; the best one counts.
_DRAWS = 200
Dropped = list[tuple[str, str, str]]  # slide barcode, case barcode, reason


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


def split_sites(cases: pd.DataFrame, sites: pd.Series) -> dict[str, str]:
    """``{case_id: split}`` in which every hospital is in one split.

    Of many random divisions of the hospitals the one counts whose shares of patients and of classes come closest
    to those of :func:`split_cases`.

    Args:
        cases: ``case_id, primary_class``; those of class -1 go where their hospital goes and are not counted.
        sites: hospital of every case, in the order of ``cases``.

    Raises:
        ValueError: there are fewer than three hospitals.
    """
    names = sorted(set(sites))
    if len(names) < len(constants.SPLITS):
        raise ValueError(
            f"hospitals are to be kept apart, but there are only {names}: three splits need three"
        )
    eligible = cases["primary_class"].to_numpy() >= 0
    classes = np.unique(cases["primary_class"][eligible])
    # [hospital, class]: how many patients
    table = np.array(
        [
            [int((eligible & (sites == name) & (cases["primary_class"] == c)).sum()) for c in classes]
            for name in names
        ],
        dtype=float,
    ).reshape(len(names), len(classes))
    shares = {"test": TEST_SHARE, "val": (1 - TEST_SHARE) * VAL_SHARE}
    shares["train"] = 1 - sum(shares.values())
    generator, best, chosen = np.random.default_rng(0), math.inf, {}
    for _ in range(_DRAWS):
        order = generator.permutation(len(names))
        ends = sorted(generator.choice(np.arange(1, len(names)), 2, replace=False))
        parts = dict(zip(("test", "val", "train"), np.split(order, ends), strict=True))
        total = np.maximum(table.sum(axis=0), 1)
        loss = sum(
            float(np.abs(table[part].sum(axis=0) / total - shares[split]).sum())
            for split, part in parts.items()
        )
        if loss < best:
            best, chosen = loss, {names[i]: split for split, part in parts.items() for i in part}
    logger.info(
        "hospitals: %s", {split: [n for n in names if chosen[n] == split] for split in constants.SPLITS}
    )
    return {case: chosen[site] for case, site in zip(cases["case_id"], sites, strict=True)}


def split_rows(
    cases: pd.DataFrame,
    slides: list[tuple[str, str, Path]],
    split_of: Mapping[str, str],
    fields: Sequence[str],
) -> dict[str, list[dict[str, Any]]]:
    """Rows of the split files, one per slide, ordered by case and slide, with the ``fields`` of the cases."""
    by_barcode = {case["case_submitter_id"]: case for case in cases.to_dict("records")}
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in constants.SPLITS}
    for slide, barcode, file in slides:
        case = by_barcode[barcode]
        row = {field: None if pd.isna(case[field]) else case[field] for field in fields}
        row |= {"slide_submitter_id": slide, "features_path": relative_to_root(file)}
        rows[split_of[case["case_id"]]].append(row)
    for part in rows.values():
        part.sort(key=lambda row: (row["case_id"], row["slide_submitter_id"]))
    return rows


def relative_to_root(file: Path) -> str:
    """``features_path`` of a file: relative to ``constants.FEATURES_ROOT`` where it lies below."""
    root = constants.FEATURES_ROOT.resolve()
    file = file.resolve()
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def write_splits(rows: Mapping[str, Sequence[Mapping[str, Any]]], outputs: Mapping[str, Path]) -> None:
    """Writes the split files and says how many are in each."""
    for split, path in outputs.items():
        write_json(path, {"data": rows[split]})
        count = len({row["case_id"] for row in rows[split]})
        logger.info("%s: %d cases, %d slides -> %s", split, count, len(rows[split]), path)
        if not rows[split]:
            logger.warning("the %s split is empty: too few cases with a class and expression", split)


def write_dropped(dropped: Dropped, path: Path) -> None:
    """Writes what was left out and why, and counts the reasons in the log."""
    table = pd.DataFrame(dropped, columns=["slide_submitter_id", "case_submitter_id", "reason"])
    with atomic_path(path) as temporary:
        table.sort_values(list(table.columns)).to_csv(temporary, index=False)
    # Reasons that quote a file are counted together.
    counts = table["reason"].str.replace(r":.*", "", regex=True).value_counts().to_dict()
    logger.info("left out %d slides, cases or values: %s -> %s", len(table), counts, path)

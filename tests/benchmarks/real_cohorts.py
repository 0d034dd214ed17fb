"""Cohorts of the test beds with real RNA: random patch features, bags of words for sentences, published splits.

For each cohort ``<name>`` a folder holds ``<name>_cases.csv`` (split, case_id, case_submitter_id, project_id,
primary_class, primary_diagnosis, durations, vital_status, ajcc_pathologic_stage; one row a slide),
``<name>_rna.csv.gz`` (cases x genes) and ``pathways_331.csv.gz`` (genes x pathways).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data_utils.features.store import FeatureMeta, write_features
from data_utils.tables.label_sentences import survival_edges
from models.modalities.genes import ALL, GeneTable
from tests.benchmarks.linear_models import METRICS, Known

PATCHES, WIDTH = 4, 64
OTHER_GENES = "other genes"


@dataclass(frozen=True)
class Cohort:
    """Where its files are, by flag, and what linear models see of it.

    Attributes:
        modalities: what linear models may read; with few deaths in validation, they would choose random images.
        metrics: what is worth a number.
        draw: which of the cohorts of its name it is, and the first seed of its trainings.
    """

    name: str
    files: Mapping[str, Path]
    splits: Mapping[str, Known]
    modalities: Sequence[str] = ("genes",)
    metrics: Sequence[str] = METRICS
    draw: int = 0


def add_other_genes_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--other_genes",
        action="store_true",
        help="genes of the table that are in no pathway are read, too, as a pathway of their own",
    )


def sentence_vector(sentence: str) -> np.ndarray:
    """A bag of words ``[512]``: sentences that share words are near each other, as CONCH's are."""
    words = sentence.lower().replace(",", " ").split()
    seeds = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little") for word in words]
    vector = sum(np.random.default_rng(seed).normal(size=512) for seed in seeds)
    return vector / np.linalg.norm(vector)


def with_other_genes(pathways: pd.DataFrame, genes: Sequence[str]) -> pd.DataFrame:
    """The gene x pathway table with one more pathway, of the genes that are in none; as it is where all are in one."""
    inside = pathways.index[pathways.to_numpy().any(axis=1)]
    others = pd.Index(genes).difference(inside, sort=False)
    if others.empty:
        return pathways
    rows = pathways.reindex(pathways.index.union(others, sort=False), fill_value=0)
    return rows.assign(**{OTHER_GENES: rows.index.isin(others).astype(int)})


def write_cohort(tables: Path, name: str, root: Path, other_genes: bool = False) -> Cohort:
    """Split files, random features, texts, genes and pathways, one of them of the genes in no pathway if asked for."""
    cases = pd.read_csv(tables / f"{name}_cases.csv").drop_duplicates("case_id")
    (root / "features").mkdir(parents=True, exist_ok=True)
    edges = survival_edges(cases.durations.tolist())
    generator, texts, means = np.random.default_rng(0), {}, {}
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    corners = np.stack([np.arange(PATCHES), np.zeros(PATCHES)], axis=1).astype(int) * 256
    for case in cases.itertuples():
        path = root / "features" / f"{case.case_id}.h5"
        features = generator.normal(size=(PATCHES, WIDTH))
        write_features(path, features, corners, FeatureMeta(256, 256, 0.5, 0.5, "random"))
        means[case.case_id] = features.mean(axis=0)
        interval = int(np.searchsorted(edges[1:-1], case.durations, side="right"))
        parts = [
            f"the diagnosis is {case.primary_diagnosis}",
            f"the stage is {case.ajcc_pathologic_stage}",
            f"the patient {'died' if case.vital_status else 'was censored'} in quarter {interval}",
        ]
        texts[case.case_id] = torch.tensor(
            np.stack([sentence_vector(text) for text in (" ".join(parts), *parts)]), dtype=torch.float32
        )
        row = {
            k: getattr(case, k) for k in ("case_id", "case_submitter_id", "project_id", "primary_diagnosis")
        }
        row |= {"slide_submitter_id": case.case_submitter_id, "features_path": str(path)}
        row |= {"primary_class": int(case.primary_class), "durations": case.durations}
        rows[str(case.split)].append({**row, "vital_status": int(case.vital_status)})
    files = {"genomics_csv_path": root / "genes.csv", "pathway_table": root / "pathways.csv"}
    files["text_location"] = root / "texts.pt"
    for split, members in rows.items():
        files[f"{split}_json"] = root / f"{split}.json"
        files[f"{split}_json"].write_text(json.dumps({"data": members}))
    torch.save(texts, files["text_location"])
    expression = pd.read_csv(tables / f"{name}_rna.csv.gz", index_col=0).clip(-10, 10)
    expression.to_csv(files["genomics_csv_path"])
    pathways = pd.read_csv(tables / "pathways_331.csv.gz", index_col=0)
    if other_genes:
        pathways = with_other_genes(pathways, expression.columns)
    pathways.to_csv(files["pathway_table"], index_label="gene")
    table = GeneTable(files["genomics_csv_path"], files["pathway_table"], ALL)
    genes = {case_id: value.numpy() for case_id, value in table.encode(table.fit()).items()}
    return Cohort(name, files, {split: _known(members, means, genes) for split, members in rows.items()})


def _known(
    rows: Sequence[Mapping[str, Any]], means: Mapping[str, np.ndarray], genes: Mapping[str, np.ndarray]
) -> Known:
    """The patients with RNA, whom the models see."""
    rows = [row for row in rows if row["case_submitter_id"] in genes]
    values = {
        "images": np.stack([means[row["case_id"]] for row in rows]),
        "genes": np.stack([genes[row["case_submitter_id"]] for row in rows]),
    }
    columns = ("primary_class", "durations", "vital_status")
    return Known(values, *(np.array([row[column] for row in rows]) for column in columns))

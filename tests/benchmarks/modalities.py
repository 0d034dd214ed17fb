"""Does RNA get through? Real RNA beside random patch features, as published and balanced, on published splits.

The images carry nothing, so every number above chance comes from the genes. For each cohort ``<name>`` a folder
holds ``<name>_cases.csv`` (split, case_id, case_submitter_id, project_id, primary_class, primary_diagnosis,
durations, vital_status, ajcc_pathologic_stage; one row a slide), ``<name>_rna.csv.gz`` (cases x genes) and
``pathways_331.csv.gz`` (genes x pathways)::

    python -m tests.benchmarks.modalities --tables FOLDER --work FOLDER --cohorts brca --seeds 3

Minutes a training on two cores; prints a table of test patients.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import train_modaltune
from data_utils.features.store import FeatureMeta, write_features
from data_utils.tables.label_sentences import survival_edges
from models.encoders import slide_encoder

PATCHES, WIDTH = 4, 64
METRICS = ("balanced_accuracy", "auc", "concordance_index")


def sentence_vector(sentence: str) -> np.ndarray:
    """A bag of words ``[512]``: sentences that share words are near each other, as CONCH's are."""
    words = sentence.lower().replace(",", " ").split()
    seeds = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little") for word in words]
    vector = sum(np.random.default_rng(seed).normal(size=512) for seed in seeds)
    return vector / np.linalg.norm(vector)


def write_cohort(tables: Path, name: str, root: Path) -> dict[str, Path]:
    """Split files, random features, texts, genes and pathways; returns them by flag."""
    cases = pd.read_csv(tables / f"{name}_cases.csv").drop_duplicates("case_id")
    (root / "features").mkdir(parents=True, exist_ok=True)
    edges = survival_edges(cases.durations.tolist())
    generator, texts = np.random.default_rng(0), {}
    rows: dict[str, list[dict[str, object]]] = {"train": [], "val": [], "test": []}
    corners = np.stack([np.arange(PATCHES), np.zeros(PATCHES)], axis=1).astype(int) * 256
    for case in cases.itertuples():
        path = root / "features" / f"{case.case_id}.h5"
        features = generator.normal(size=(PATCHES, WIDTH))
        write_features(path, features, corners, FeatureMeta(256, 256, 0.5, 0.5, "random"))
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
    flags = {"genomics_csv_path": root / "genes.csv", "pathway_table": root / "pathways.csv"}
    flags["text_location"] = root / "texts.pt"
    for split, members in rows.items():
        flags[f"{split}_json"] = root / f"{split}.json"
        flags[f"{split}_json"].write_text(json.dumps({"data": members}))
    torch.save(texts, flags["text_location"])
    pd.read_csv(tables / f"{name}_rna.csv.gz", index_col=0).clip(-10, 10).to_csv(flags["genomics_csv_path"])
    pd.read_csv(tables / "pathways_331.csv.gz").to_csv(flags["pathway_table"], index=False)
    return flags


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="gets generated files and run folders")
    parser.add_argument("--cohorts", nargs="+", default=["brca"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args(argv)
    encoder = slide_encoder("gigapath")
    for name in args.cohorts:
        files = write_cohort(args.tables, name, args.work / name)
        for kind, config in (("published", encoder.demo_config), ("balanced", encoder.demo_balanced_config)):
            flags = {**files, "model_config": config, "output_path": args.work / name / kind, "lr": 1e-3}
            flags |= {"num_epochs": args.epochs, "multi_seed": args.seeds, "cache_features": "ram"}
            words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
            train_modaltune.main([*words, "--random_backbone", "--device", "cpu"])
            table = pd.read_csv(args.work / name / kind / "results.csv")
            rows = table[(table.run == "mean") & (table.split == "test") & (table.task == "General")]
            values = rows.set_index("metric").value
            numbers = ", ".join(f"{metric} {values[metric]:.3f}" for metric in METRICS)
            sys.stdout.write(f"{name} {kind}: {numbers}\n")


if __name__ == "__main__":
    main()

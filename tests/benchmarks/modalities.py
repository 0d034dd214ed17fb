"""Does every modality get through? The published and the balanced config on planted cohorts and on real RNA.

Planted cohorts (see tests.benchmarks.planted_modalities) hold the signal in one modality, two, an interaction, or all::

    python -m tests.benchmarks.modalities --work FOLDER --seeds 3

Real RNA stands beside random patch features, on published splits, so that every number above chance comes from the
genes. For each cohort ``<name>`` a folder holds ``<name>_cases.csv`` (split, case_id, case_submitter_id, project_id,
primary_class, primary_diagnosis, durations, vital_status, ajcc_pathologic_stage; one row a slide),
``<name>_rna.csv.gz`` (cases x genes) and ``pathways_331.csv.gz`` (genes x pathways)::

    python -m tests.benchmarks.modalities --tables FOLDER --work FOLDER --cohorts brca --seeds 3

Minutes a training; prints numbers of the test patients.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import train_modaltune
from data_utils.features.store import FeatureMeta, write_features
from data_utils.tables.label_sentences import survival_edges
from models.encoders import slide_encoder
from tests.benchmarks.planted_modalities import MODALITIES, ROWS, plant, write_planted
from utils.files import read_json

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


def configs(folder: Path) -> dict[str, Path]:
    """The demo configs of GigaPath, published and balanced, cut to three blocks."""
    encoder, found = slide_encoder("gigapath"), {}
    folder.mkdir(parents=True, exist_ok=True)
    for kind, path in (("published", encoder.demo_config), ("balanced", encoder.demo_balanced_config)):
        config = read_json(path)
        config["slide_encoder"]["depth"], config["interaction_indexes"] = 3, [[0, 0], [1, 1], [2, 2]]
        found[kind] = folder / f"{kind}.json"
        found[kind].write_text(json.dumps(config))
    return found


def train(files: Mapping[str, Path], output: Path, config: Path, args: argparse.Namespace) -> pd.Series:
    """Metrics of the General token on the test patients, mean over the seeds."""
    flags: dict[str, object] = {**files, "model_config": config, "output_path": output, "device": "cpu"}
    flags |= {"num_epochs": args.epochs, "num_seeds": args.seeds, "lr": args.lr, "gc": args.gc}
    flags |= {"eval_interval": 2, "cache_features": "ram"}
    if "clinical_location" in files:
        flags["mil_name"] = "longnetvit_gene_clinical_adapter"
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    train_modaltune.main([*words, "--random_backbone"])
    table = pd.read_csv(output / "results.csv")
    rows = table[(table.run == "mean") & (table.split == "test") & (table.task == "General")]
    return rows.set_index("metric").value


def real(args: argparse.Namespace) -> Iterator[str]:
    """Real RNA beside random images."""
    for name in args.cohorts:
        files = write_cohort(args.tables, name, args.work / name)
        for kind, config in configs(args.work).items():
            values = train(files, args.work / name / kind, config, args)
            yield f"{name} {kind}: " + ", ".join(f"{metric} {values[metric]:.3f}" for metric in METRICS)


def planted(args: argparse.Namespace) -> Iterator[str]:
    """Balanced accuracy on planted cohorts; the linear models see one modality or all of them."""
    yield "| signal | published | balanced | best single modality, linear | all modalities, linear |"
    yield "| --- | --- | --- | --- | --- |"
    for row in args.rows:
        cohort = plant(row, seed=0)
        root = args.work / re.sub(r"\W+", "_", row)
        files = write_planted(cohort, root, seed=0)
        found = [
            train(files, root / kind, config, args).balanced_accuracy
            for kind, config in configs(args.work).items()
        ]
        found += [max(cohort.linear((name,)) for name in MODALITIES), cohort.linear(MODALITIES)]
        yield f"| {row} | " + " | ".join(f"{value:.3f}" for value in found) + " |"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", type=Path, help="folder of real tables; without it, planted cohorts")
    parser.add_argument("--work", type=Path, required=True, help="gets generated files and run folders")
    parser.add_argument("--cohorts", nargs="+", default=["brca"])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="planted cohorts")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--gc", type=int, default=8)
    args = parser.parse_args(argv)
    for line in real(args) if args.tables else planted(args):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

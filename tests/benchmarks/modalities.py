"""Does every modality get through? The published and the balanced config on planted cohorts and on real RNA.

Planted cohorts (see tests.benchmarks.planted_modalities) hold the signal in one modality, two, an interaction, or all::

    python -m tests.benchmarks.modalities --work FOLDER --seeds 3 --test

Real RNA stands beside random patch features, on published splits, so that every number above chance comes from the
genes. For each cohort ``<name>`` a folder holds ``<name>_cases.csv`` (split, case_id, case_submitter_id, project_id,
primary_class, primary_diagnosis, durations, vital_status, ajcc_pathologic_stage; one row a slide),
``<name>_rna.csv.gz`` (cases x genes) and ``pathways_331.csv.gz`` (genes x pathways)::

    python -m tests.benchmarks.modalities --tables FOLDER --work FOLDER --cohorts brca --seeds 3 --test

Without --test the numbers are of the validation patients: settings are compared on these. A setting is a name and
what it changes in the balanced config, or in the flags of the training::

    python -m tests.benchmarks.modalities --work FOLDER --try decay flags.weight_decay=0.05 \\
        --try "without norm" gene_encoder.norm=false flags.lr=1e-3

Everything is trained by train_modaltune.py, on the CPU. A training that is done is not done again: remove --work
when the code has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import train_modaltune
from data_utils.features.store import FeatureMeta, write_features
from data_utils.tables.label_sentences import survival_edges
from models.encoders import slide_encoder
from models.modalities.genes import ALL, GeneTable
from tests.benchmarks.linear_models import METRICS, Found, Known, best_single, linear_models
from tests.benchmarks.planted_modalities import MODALITIES, ROWS, plant, write_planted
from tests.small_runs import quick_evaluation
from utils.files import read_json

PATCHES, WIDTH = 4, 64
OTHER_GENES = "other genes"


@dataclass(frozen=True)
class Setting:
    """What is trained: a demo config of GigaPath, cut to one block, with keys and flags of its own."""

    name: str
    published: bool = False
    keys: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, words: Sequence[str]) -> Setting:
        """From ``NAME KEY=VALUE ...``; values are JSON where they can be."""
        keys = {}
        for word in words[1:]:
            key, _, value = word.partition("=")
            try:
                keys[key] = json.loads(value)
            except json.JSONDecodeError:
                keys[key] = value
        return cls(words[0], keys=keys)

    def config(self) -> dict[str, Any]:
        """The model config."""
        encoder = slide_encoder("gigapath")
        content = read_json(encoder.demo_config if self.published else encoder.demo_balanced_config)
        content["slide_encoder"] |= {"depth": 1, "segment_lengths": [64], "dilated_ratios": [1]}
        content |= {"interaction_indexes": [[0, 0]], "use_extra_extractor": False}
        for key, value in self.keys.items():
            if not key.startswith("flags."):
                *sections, name = key.split(".")
                inner = content
                for section in sections:
                    inner = inner.setdefault(section, {})
                inner[name] = deepcopy(value)
        return content

    @property
    def flags(self) -> dict[str, Any]:
        """Flags of the training that it changes."""
        return {k.removeprefix("flags."): v for k, v in self.keys.items() if k.startswith("flags.")}


@dataclass(frozen=True)
class Cohort:
    """Where its files are, by flag, and what linear models see of it.

    Attributes:
        modalities: what linear models may read; with few deaths in validation, they would choose random images.
        metrics: what is worth a number.
    """

    name: str
    files: Mapping[str, Path]
    splits: Mapping[str, Known]
    modalities: Sequence[str] = ("genes",)
    metrics: Sequence[str] = METRICS


# ---------------------------------------------------------------------------- real cohorts
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


def planted_cohort(row: str, root: Path) -> Cohort:
    """A row of the planted table, on disk; nothing decides how long its patients live."""
    planted = plant(row, seed=0)
    return Cohort(row, write_planted(planted, root, seed=0), planted.splits(), MODALITIES, METRICS[:1])


# ---------------------------------------------------------------------------- trainings
def train(cohort: Cohort, setting: Setting, output: Path, args: argparse.Namespace) -> pd.DataFrame:
    """Mean and deviation over the seeds of the metrics of the General token, by metric."""
    output.mkdir(parents=True, exist_ok=True)
    config = output.with_suffix(".json")
    config.write_text(json.dumps(setting.config()))
    flags: dict[str, Any] = {**cohort.files, "model_config": config, "output_path": output, "device": "cpu"}
    flags |= {"num_epochs": args.epochs, "num_seeds": args.seeds, "lr": args.lr, "gc": args.gc}
    flags |= {"eval_interval": 2, "cache_features": "ram"} | setting.flags
    if "clinical_location" in cohort.files:
        flags["mil_name"] = "longnetvit_gene_clinical_adapter"
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    with quick_evaluation():  # intervals and figures are not looked at
        train_modaltune.main([*words, "--random_backbone"])
    table = pd.read_csv(output / "results.csv")
    split = "test" if args.test else "val"
    rows = table[(table.run == "mean") & (table.split == split) & (table.task == "General")]
    return rows.set_index("metric")


def cells(found: Found, cohort: Cohort, args: argparse.Namespace) -> str:
    """Of a linear model."""
    split = "test" if args.test else "val"
    return " / ".join(f"{found[metric][split]:.3f}" for metric in cohort.metrics)


def measure(cohort: Cohort, settings: Sequence[Setting], root: Path, args: argparse.Namespace) -> str:
    """The line of a cohort."""
    line = [cohort.name]
    for setting in settings:
        values = train(cohort, setting, root / re.sub(r"\W+", "_", setting.name), args)
        parts = []
        for metric in cohort.metrics:
            spread = values["std"][metric]
            parts.append(f"{values.value[metric]:.3f}" + (f" ± {spread:.3f}" if args.seeds > 1 else ""))
        line.append(" / ".join(parts))
    for fit in (best_single, linear_models):
        line.append(cells(fit(cohort.splits, cohort.modalities, cohort.metrics), cohort, args))
    return f"| {' | '.join(line)} |"


def add_other_genes_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--other_genes",
        action="store_true",
        help="genes of the table that are in no pathway are read, too, as a pathway of their own",
    )


def cohorts(args: argparse.Namespace) -> Iterator[tuple[Cohort, Path]]:
    """Those asked for, and where their files and trainings go."""
    for name in args.cohorts if args.tables else args.rows:
        root = args.work / re.sub(r"\W+", "_", name)
        if args.tables:
            yield write_cohort(args.tables, name, root, args.other_genes), root
        else:
            yield planted_cohort(name, root), root


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", type=Path, help="folder of real tables; without it, planted cohorts")
    parser.add_argument("--work", type=Path, required=True, help="gets generated files and run folders")
    parser.add_argument("--cohorts", nargs="+", default=["brca"])
    add_other_genes_flag(parser)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="planted cohorts")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--gc", type=int, default=4)
    parser.add_argument(
        "--try", dest="settings", nargs="+", action="append", metavar="WORD", help="see above"
    )
    parser.add_argument("--test", action="store_true", help="test patients instead of validation patients")
    args = parser.parse_args(argv)
    settings = [Setting.parse(words) for words in args.settings or []]
    settings = settings or [Setting("published", published=True), Setting("balanced")]
    heads = ["cohort", *(s.name for s in settings), "best single modality, linear", "all modalities, linear"]
    for line in ("| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"):
        sys.stdout.write(line + "\n")
    for cohort, root in cohorts(args):
        sys.stdout.write(measure(cohort, settings, root, args) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

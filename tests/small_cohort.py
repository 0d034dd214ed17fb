"""A generated cohort of a few patients, and a model small enough to train on it within seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data_utils.features.store import FeatureMeta, write_features

IN_DIM = 10
PATHWAYS = {"A": (0, 3, 5), "B": (1,), "C": (2, 3, 4, 6, 7, 8, 9), "D": (5, 0)}
NUM_GENES = 10


def small_longnet(**changes: Any) -> dict[str, Any]:
    """Arguments of a slide encoder of two blocks and two dilated branches, with ``changes``."""
    return {
        "in_dim": IN_DIM,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        "ffn_dim": 20,
        "segment_lengths": [8, 64],
        "dilated_ratios": [1, 2],
        **changes,
    }


MODEL_CONFIG = {
    "slide_encoder": small_longnet(dropout=0.25, drop_path_rate=0.1),
    "interaction_indexes": [[0, 0], [1, 1]],
    "num_heads": 3,
    "output_dim": 6,
    "gene_encoder": {"hidden_dim": 8, "depth": 1, "num_tokens": 4, "dropout": 0.25},
}


@dataclass(frozen=True)
class SmallCohort:
    """Where the files of a generated cohort lie."""

    root: Path

    def split(self, name: str) -> Path:
        return self.root / f"{name}.json"

    @property
    def genes(self) -> Path:
        return self.root / "genes.csv"

    @property
    def pathways(self) -> Path:
        return self.root / "pathways.csv"

    @property
    def texts(self) -> Path:
        return self.root / "texts.pt"

    @property
    def clinical(self) -> Path:
        return self.root / "clinical.pt"

    @property
    def clinical_values(self) -> Path:
        return self.root / "clinical.csv"

    @property
    def vectors(self) -> Path:
        return self.root / "vectors.pt"

    @property
    def model_config(self) -> Path:
        return self.root / "model.json"

    def flags(self, output: Path, **changes: object) -> list[str]:
        """Flags of a training run of two epochs; a change of None leaves the flag out, True has no value."""
        flags = {
            "train_json": self.split("train"),
            "val_json": self.split("val"),
            "test_json": self.split("test"),
            "genomics_csv_path": self.genes,
            "text_location": self.texts,
            "pathway_table": self.pathways,
            "model_config": self.model_config,
            "random_backbone": True,
            "num_epochs": 2,
            "lr": 1e-3,
            "device": "cpu",
            "output_path": output,
            **changes,
        }
        words = []
        for name, value in flags.items():
            if value is not None:
                words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return words


def split_row(case: int, slide: int, path: Path, label: int, **changes: object) -> dict[str, object]:
    """One row of a split file."""
    row = {
        "case_id": f"case-{case}",
        "case_submitter_id": f"TCGA-AA-{case:04d}",
        "slide_submitter_id": f"TCGA-AA-{case:04d}-01Z-00-DX{slide}",
        "project_id": "TCGA-TEST",
        "primary_diagnosis": f"type {label}",
        "primary_class": label,
        "durations": 5.0 + 7 * case % 50,
        "vital_status": case // 2 % 2,
        "features_path": str(path),
    }
    return {**row, **changes}


def write_slide(path: Path, num_patches: int, seed: int, shift: float = 0.0, patch_size: int = 256) -> None:
    """A feature file of patches on a grid; ``shift`` moves the first feature."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(num_patches, IN_DIM))
    features[:, 0] += shift
    cells = np.stack([np.arange(num_patches) % 4, np.arange(num_patches) // 4], axis=1)
    meta = FeatureMeta(patch_size, patch_size, 0.5, 0.5, "test")
    write_features(path, features, cells * patch_size, meta, dtype="float32")


def make_small_cohort(
    root: Path,
    train: int = 8,
    val: int = 4,
    test: int = 4,
    without_genes: tuple[int, ...] = (),
    first: int = 0,
) -> SmallCohort:
    """Writes feature files, splits, genes, pathways, texts, clinical data, vectors and a model config.

    Patients are numbered from ``first``; those numbered in ``without_genes`` have no RNA. Classes
    alternate; they move the first feature, the first gene and the texts. Every fifth patient has two
    slides.
    """
    root.mkdir(parents=True, exist_ok=True)
    cohort = SmallCohort(root)
    cases = range(first, first + train + val + test)
    generator = np.random.default_rng(first)
    rows = []
    for case in cases:
        label = case % 2
        for slide in range(2 if case % 5 == 0 else 1):
            path = root / "features" / f"slide-{case}-{slide}.h5"
            write_slide(path, 5 + case % 3, seed=10 * case + slide, shift=2.0 * label)
            rows.append(split_row(case, slide, path, label))
    parts = {"train": cases[:train], "val": cases[train : train + val], "test": cases[train + val :]}
    for split, part in parts.items():
        ids = {f"case-{case}" for case in part}
        data = [row for row in rows if row["case_id"] in ids]
        cohort.split(split).write_text(json.dumps({"data": data}), encoding="utf-8")

    genes = generator.normal(size=(len(cases), NUM_GENES))
    genes[:, 0] += np.array(cases) % 2
    table = pd.DataFrame(genes, index=cases, columns=[f"G{i}" for i in range(NUM_GENES)])
    table.insert(0, "case_id", [f"TCGA-AA-{case:04d}" for case in cases])
    table.drop(index=list(without_genes)).to_csv(cohort.genes, index=False)
    member = {name: [int(i in genes) for i in range(NUM_GENES)] for name, genes in PATHWAYS.items()}
    pd.DataFrame({"gene": table.columns[1:], **member}).to_csv(cohort.pathways, index=False)

    sentences = generator.normal(size=(2, 4, 512))
    texts = {
        f"case-{case}": torch.nn.functional.normalize(
            torch.from_numpy(sentences[case % 2] + 0.3 * generator.normal(size=(4, 512))).float(), dim=-1
        )
        for case in cases
    }
    torch.save(texts, cohort.texts)
    clinical = {f"case-{case}": torch.from_numpy(generator.random(5)).float() for case in cases}
    torch.save(clinical, cohort.clinical)
    raw = {
        "age_at_index": [
            None if case % 4 == 0 else 75 if case == cases[-1] else 30 + 5 * case % 40 for case in cases
        ],
        "ajcc_pathologic_stage": [f"Stage {'I' * (1 + case % 3)}" for case in cases],
        "ajcc_pathologic_t": [f"T{case % 4}" if case % 5 else None for case in cases],
        "ajcc_pathologic_n": [f"N{case % 2}" for case in cases],
        "ajcc_pathologic_m": ["M0" for case in cases],
    }
    values = pd.DataFrame(raw, index=pd.Index([f"case-{case}" for case in cases], name="case_id"))
    values.to_csv(cohort.clinical_values)
    vectors = {f"case-{case}": torch.from_numpy(generator.normal(size=(2, 5))).float() for case in cases}
    torch.save(vectors, cohort.vectors)
    cohort.model_config.write_text(json.dumps(MODEL_CONFIG), encoding="utf-8")
    return cohort

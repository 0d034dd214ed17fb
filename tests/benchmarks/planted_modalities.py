"""Cohorts whose subtype is planted: in one modality, split between two, in an interaction of two, or in all.

A hidden number is planted into a modality of each patient: it shifts patch features, a quarter of the genes, or age
and stage. The class is the sign of that number, of the sum of two (either one alone is right in 75 % of the patients)
or of the product of two (either one alone says nothing). What is not planted is noise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data_utils.features.store import FeatureMeta, write_features
from tests.benchmarks.linear_models import Known

SPLITS = {"train": 160, "val": 80, "test": 240}
PATCHES, WIDTH, GENES, PATHWAYS = 4, 64, 120, 12
MODALITIES = ("images", "genes", "clinical")
# Row of the table -> the modalities that hold a number, and how the numbers make the class.
ROWS = {
    "images only": (("images",), "sum"),
    "genes only": (("genes",), "sum"),
    "clinical only": (("clinical",), "sum"),
    "images + genes": (("images", "genes"), "sum"),
    "genes + clinical": (("genes", "clinical"), "sum"),
    "images x genes": (("images", "genes"), "product"),
    "the same in all": (MODALITIES, "same"),
}


@dataclass(frozen=True)
class Planted:
    """A planted cohort.

    Attributes:
        labels: class of every patient ``[n]``, training patients first, then validation and test.
        durations: survival times ``[n]``, which nothing decides.
        events: who died ``[n]``.
        values: by modality, what linear models see ``[n, d]``.
        patches: ``[n, PATCHES, WIDTH]``.
    """

    labels: np.ndarray
    durations: np.ndarray
    events: np.ndarray
    values: dict[str, np.ndarray]
    patches: np.ndarray

    def splits(self) -> dict[str, Known]:
        """The patients as linear models see them."""
        found, start = {}, 0
        for split, size in SPLITS.items():
            rows = slice(start, start + size)
            values = {name: value[rows] for name, value in self.values.items()}
            found[split] = Known(values, self.labels[rows], self.durations[rows], self.events[rows])
            start += size
        return found


def plant(row: str, seed: int) -> Planted:
    """Draws the patients of a row of :data:`ROWS`."""
    holders, rule = ROWS[row]
    generator = np.random.default_rng(seed)
    count = sum(SPLITS.values())
    # Away from zero, so that the class is not a matter of noise.
    hidden = {
        name: generator.choice([-1, 1], count) * generator.uniform(0.5, 1.5, count) for name in MODALITIES
    }
    if rule == "same":
        hidden = dict.fromkeys(MODALITIES, hidden["images"])
        score = hidden["images"]
    else:
        parts = np.stack([hidden[name] for name in holders])
        score = parts.sum(axis=0) if rule == "sum" else parts.prod(axis=0)
    shift = {name: hidden[name] if name in holders else np.zeros(count) for name in MODALITIES}
    directions = {
        name: generator.choice([-1, 1], n) for name, n in (("images", WIDTH), ("genes", GENES // 4))
    }
    patches = generator.normal(size=(count, PATCHES, WIDTH))
    patches += 0.15 * shift["images"][:, None, None] * directions["images"]
    genes = generator.normal(size=(count, GENES))
    genes[:, : GENES // 4] += 0.3 * shift["genes"][:, None] * directions["genes"]
    clinical = generator.uniform(size=(count, 5))
    clinical[:, :2] = np.clip(clinical[:, :2] / 2 + 0.25 + 0.15 * shift["clinical"][:, None], 0, 1)
    values = {"images": patches.mean(axis=1), "genes": genes, "clinical": clinical}
    durations, events = generator.exponential(30, count), generator.integers(2, size=count)
    return Planted((score > 0).astype(int), durations, events, values, patches)


def write_planted(planted: Planted, root: Path, seed: int) -> dict[str, Path]:
    """Split files, features, sentences, genes, pathways and clinical data; returns them by flag."""
    (root / "features").mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    ids = [f"case-{i}" for i in range(len(planted.labels))]
    barcodes = [f"TCGA-AA-{i:04d}" for i in range(len(ids))]
    corners = np.stack([np.arange(PATCHES), np.zeros(PATCHES)], axis=1).astype(int) * 256
    rows = []
    for i, case_id in enumerate(ids):
        path = root / "features" / f"{case_id}.h5"
        write_features(path, planted.patches[i], corners, FeatureMeta(256, 256, 0.5, 0.5, "planted"))
        row = {"case_id": case_id, "case_submitter_id": barcodes[i], "project_id": "TCGA-PLANTED"}
        row |= {"slide_submitter_id": f"{barcodes[i]}-01Z-00-DX1", "features_path": str(path)}
        row |= {"primary_class": int(planted.labels[i]), "primary_diagnosis": f"type {planted.labels[i]}"}
        row |= {"durations": float(planted.durations[i]), "vital_status": int(planted.events[i])}
        rows.append(row)
    flags = {"genomics_csv_path": root / "genes.csv", "pathway_table": root / "pathways.csv"}
    flags |= {"text_location": root / "texts.pt", "clinical_location": root / "clinical.pt"}
    start = 0
    for split, size in SPLITS.items():
        flags[f"{split}_json"] = root / f"{split}.json"
        flags[f"{split}_json"].write_text(json.dumps({"data": rows[start : start + size]}))
        start += size
    names = [f"G{i}" for i in range(GENES)]
    pd.DataFrame(planted.values["genes"], index=pd.Index(barcodes, name="case_id"), columns=names).to_csv(
        flags["genomics_csv_path"]
    )
    member = {f"P{k}": [int(i % PATHWAYS == k) for i in range(GENES)] for k in range(PATHWAYS)}
    pd.DataFrame({"gene": names, **member}).to_csv(flags["pathway_table"], index=False)
    sentences = generator.normal(size=(2, 4, 512))
    texts = sentences[planted.labels] + 0.5 * generator.normal(size=(len(ids), 4, 512))
    texts /= np.linalg.norm(texts, axis=-1, keepdims=True)
    torch.save(dict(zip(ids, torch.tensor(texts, dtype=torch.float32), strict=True)), flags["text_location"])
    clinical = torch.tensor(planted.values["clinical"], dtype=torch.float32)
    torch.save(dict(zip(ids, clinical, strict=True)), flags["clinical_location"])
    return flags

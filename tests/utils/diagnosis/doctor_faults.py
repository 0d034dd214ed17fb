"""Faults that users' files have, planted one by one into a cohort without any (for the tests of the doctor)."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch

from tests.small_cohort import MODEL_CONFIG, SmallCohort
from tests.small_runs import TITAN_CONFIG
from utils import doctor
from utils.findings import Finding

CLINICAL = "longnetvit_gene_clinical_adapter"
VECTORS = "longnetvit_gene_vectors_adapter"
EVERYTHING = "longnetvit_gene_clinical_vectors_adapter"


@dataclass
class Subject:
    """What the tests spoil, and the flags they change."""

    cohort: SmallCohort
    flags: dict

    @property
    def root(self) -> Path:
        return self.cohort.root

    def slide(self, case: int) -> Path:
        return self.root / "features" / f"slide-{case}-0.h5"

    def change_slide(self, case: int, **arrays: object) -> None:
        with h5py.File(self.slide(case), "r+") as file:
            for name, change in arrays.items():
                values, attributes = file[name][:], dict(file[name].attrs)
                del file[name]
                file[name] = change(values)
                file[name].attrs.update(attributes)

    def attribute(self, name: str, value: object, cases: range = range(52)) -> None:
        for case in cases:
            with h5py.File(self.slide(case), "r+") as file:
                if value is None:
                    del file["coords"].attrs[name]
                else:
                    file["coords"].attrs[name] = value

    def rows(self, split: str, change: object) -> None:
        path = self.cohort.split(split)
        rows = json.loads(path.read_text())["data"]
        changed = change(rows)
        path.write_text(json.dumps({"data": rows if changed is None else changed}))

    def every_row(self, split: str, **values: object) -> None:
        self.rows(split, lambda rows: [row.update(values) for row in rows] and None)

    def genes(self, change: object) -> None:
        table = pd.read_csv(self.cohort.genes, index_col=0)
        change(table).to_csv(self.cohort.genes)

    def tensors(self, path: Path, change: object) -> None:
        content = torch.load(path)
        change(content)
        torch.save(content, path)

    def titan(self) -> None:
        self.cohort.model_config.write_text(json.dumps(TITAN_CONFIG))
        self.flags |= {"mil_name": "titan_gene_adapter", "random_backbone": True, "backbone_weights": None}

    def evaluate(self) -> None:
        self.flags |= {"eval_only": True, "eval_weights": self.root / "best_model_weights.pt"}

    def words(self) -> list[str]:
        return self.cohort.flags(self.root / "run", feature_samples=100, **self.flags)

    def findings(self, checks: Mapping[str, str] = doctor.CHECKS) -> list[Finding]:
        return doctor.examine(*doctor.parse_args(self.words()), checks)


def drop(name):
    return lambda content: content.pop(name)


def spoil(name, value):
    def change(content):
        content[name][...] = value

    return change


def replace_weight(change):
    return lambda content: content["model"].update(change(content["model"]))


def several(*actions):
    def act(patient):
        for action in actions:
            action(patient)

    return act


def weights_fault(change):
    return lambda p: p.tensors(p.root / "slide_encoder.pth", replace_weight(change))


def drop_weight(p):
    p.tensors(p.root / "slide_encoder.pth", lambda content: content["model"].pop("cls_token"))


def collapse(coords):
    return coords // 256


# name -> (what is done to the cohort, area, level, words of the finding, words of the remedy)
FAULTS = {
    # packages, device, model
    "no GPU": (lambda p: p.flags.update(device="7"), "device", "error", "has 0 GPUs", "--device auto"),
    "unknown model": (
        lambda p: p.flags.update(mil_name="longnet"),
        "model",
        "error",
        "unknown --mil_name",
        "--mil_name",
    ),
    "unknown key": (
        lambda p: p.cohort.model_config.write_text(json.dumps({**MODEL_CONFIG, "num_head": 3})),
        "model",
        "error",
        "did you mean 'num_heads'",
        "--model_config",
    ),
    "no config": (lambda p: p.cohort.model_config.unlink(), "model", "error", "model.json", "--model_config"),
    # weights
    "no slide encoder": (
        lambda p: (p.root / "slide_encoder.pth").unlink(),
        "weights",
        "error",
        "not found",
        "--backbone_weights",
    ),
    "damaged slide encoder": (
        lambda p: (p.root / "slide_encoder.pth").write_text("<html>"),
        "weights",
        "error",
        "no readable",
        "official",
    ),
    "missing parameter": (drop_weight, "weights", "error", "misses 1 parameters: cls_token", "official file"),
    "misshapen parameter": (
        weights_fault(lambda m: {"cls_token": torch.zeros(1, 1, 7)}),
        "weights",
        "error",
        r"cls_token is \(1, 1, 7\), should be \(1, 1, 24\)",
        "official file",
    ),
    "unexpected parameter": (
        weights_fault(lambda m: {"head.weight": torch.zeros(2)}),
        "weights",
        "warning",
        "head.weight",
        "official file",
    ),
    "rounded parameters": (
        weights_fault(lambda m: {k: v.half() for k, v in m.items()}),
        "weights",
        "warning",
        "stored as float16",
        "official",
    ),
    "NaN parameters": (
        weights_fault(lambda m: {"cls_token": m["cls_token"] * np.nan}),
        "weights",
        "error",
        "NaN.*cls_token",
        "again",
    ),
    "random slide encoder": (
        lambda p: p.flags.update(random_backbone=True),
        "weights",
        "warning",
        "random weights",
        "--backbone_weights",
    ),
    "trained weights of another size": (
        several(
            Subject.evaluate,
            lambda p: p.tensors(
                p.root / "best_model_weights.pt",
                replace_weight(lambda m: {"final_project.bias": torch.zeros(9)}),
            ),
        ),
        "weights",
        "error",
        "final_project.bias is",
        "--pathway_table",
    ),
    "no trained weights": (
        several(Subject.evaluate, lambda p: p.flags.update(eval_weights=p.root / "nowhere")),
        "weights",
        "error",
        "nowhere",
        "eval_weights",
    ),
    "trained on the test patients": (
        several(
            Subject.evaluate,
            lambda p: p.tensors(
                p.root / "best_model_weights.pt",
                lambda content: content["run"].update(train_cases=["case-40"]),
            ),
        ),
        "weights",
        "error",
        "trained on 1 patients.*case-40",
        "split files",
    ),
    # features
    "missing file": (
        lambda p: p.slide(3).unlink(),
        "features",
        "error",
        "1 of 63 feature files are missing.*slide-3",
        "--features_dir",
    ),
    "damaged file": (
        lambda p: p.slide(3).write_bytes(p.slide(3).read_bytes()[:300]),
        "features",
        "error",
        "slide-3.*damaged",
        "extract",
    ),
    "empty file": (
        lambda p: p.change_slide(3, features=lambda v: v[:0], coords=lambda v: v[:0]),
        "features",
        "error",
        "slide-3.*no patches",
        "extract",
    ),
    "lengths differ": (
        lambda p: p.change_slide(3, coords=lambda v: v[:-1]),
        "features",
        "error",
        "feature vectors but",
        "extract",
    ),
    "width": (
        lambda p: p.change_slide(3, features=lambda v: v[:, :7]),
        "features",
        "error",
        r"are \[7\] wide.*10.*slide-3",
        "--mil_name",
    ),
    "NaN": (
        lambda p: p.change_slide(3, features=lambda v: v * np.nan),
        "features",
        "error",
        "slide-3.*NaN",
        "extract",
    ),
    "coordinates that overflowed": (
        lambda p: p.change_slide(3, coords=lambda v: np.where(v == v.max(), np.inf, v).astype("f4")),
        "features",
        "error",
        "slide-3.*infinite",
        "extract",
    ),
    "zero": (
        lambda p: p.change_slide(3, features=lambda v: v * 0),
        "features",
        "error",
        "slide-3.*zero",
        "extract",
    ),
    "equal": (
        lambda p: p.change_slide(3, features=lambda v: v * 0 + 1),
        "features",
        "warning",
        "same features",
        "extract",
    ),
    "another scale": (
        lambda p: p.change_slide(3, features=lambda v: v * 1000),
        "features",
        "warning",
        "slide-3-0.*in the mean.*elsewhere",
        "features of one encoder are of one size",
    ),
    "a copied feature file": (
        lambda p: shutil.copy(p.slide(3), p.slide(9)),
        "features",
        "warning",
        "1 feature files hold the patches of another case: .*slide-9-0.h5 of case case-9 as .*slide-3-0.h5",
        "copies or wrong links",
    ),
    "several encoders": (
        lambda p: p.attribute("encoder", "other", range(3)),
        "features",
        "warning",
        "several encoders.*3 of other",
        "one encoder",
    ),
    "assumed resolution": (
        lambda p: p.attribute("mpp_assumed", True, range(2)),
        "features",
        "warning",
        "resolution.*slide-1-0",
        "again",
    ),
    "patch numbers": (
        lambda p: p.change_slide(3, coords=collapse),
        "features",
        "error",
        "slide-3.*are 1 apart",
        "level-0 pixels",
    ),
    "doubled patches": (
        lambda p: p.change_slide(3, coords=lambda v: v[[0, 0, *range(2, len(v))]]),
        "features",
        "warning",
        "slide-3.*where another",
        "once",
    ),
    "stated patch size": (
        lambda p: p.attribute("patch_size_level0", 1024, range(3, 4)),
        "features",
        "warning",
        "states patch_size_level0 1024.*256 apart",
        "attribute",
    ),
    "outside the grid": (
        lambda p: p.change_slide(3, coords=lambda v: v + 300_000),
        "features",
        "warning",
        "slide-3.*grid ends",
        "corner",
    ),
    "unknown patch size": (
        lambda p: p.attribute("patch_size_level0", None, range(2)),
        "features",
        "warning",
        "2 feature files do not state",
        "--patch_size_lv0",
    ),
    "unknown patch size on TITAN": (
        several(Subject.titan, lambda p: p.attribute("patch_size_level0", None)),
        "features",
        "error",
        "do not state patch_size_level0.*titan",
        "--patch_size_lv0",
    ),
    "wrong patch size on TITAN": (
        several(Subject.titan, lambda p: p.attribute("patch_size_level0", 2048)),
        "features",
        "error",
        "share a cell",
        "--patch_size_lv0",
    ),
    "no features folder": (
        lambda p: p.flags.update(features_dir=p.root / "nowhere"),
        "splits",
        "error",
        "is no folder",
        "folder",
    ),
    # splits
    "no split file": (
        lambda p: p.cohort.split("val").unlink(),
        "splits",
        "error",
        "val.json does not exist",
        "make_dataset",
    ),
    "row without label": (
        lambda p: p.rows(
            "test", lambda rows: [{k: v for k, v in rows[0].items() if k != "primary_class"}, *rows[1:]]
        ),
        "splits",
        "error",
        "test.json: row 0.*lacks",
        "--test_json",
    ),
    "rows of a case that disagree": (
        lambda p: (p.root / "contradictions_brca.csv").write_text(
            "case_submitter_id,field,values,taken\n"
            "TCGA-AA-0003,vital_status,Alive | Dead,Dead\nTCGA-ZZ-0003,age_at_index,50 | 60,50\n"
        ),
        "splits",
        "warning",
        r"rows of 1 cases contradict .*TCGA-AA-0003 \(vital_status\)$",
        "contradictions_brca.csv what was taken",
    ),
    "slide twice": (
        lambda p: p.rows("train", lambda rows: [*rows, rows[-1]]),
        "splits",
        "error",
        "stands twice",
        "make_dataset",
    ),
    "leak by case": (
        lambda p: p.rows(
            "test", lambda rows: [*rows, json.loads(p.cohort.split("train").read_text())["data"][-1]]
        ),
        "splits",
        "error",
        r"leakage.*case: case-23 \(test and train\)",
        "one split",
    ),
    "leak by barcode": (
        lambda p: p.rows("test", lambda rows: rows[0].update(case_submitter_id="TCGA-AA-0003") or None),
        "splits",
        "error",
        "leakage.*barcode: TCGA-AA-0003",
        "one split",
    ),
    "leak by file": (
        lambda p: p.rows("test", lambda rows: rows[0].update(features_path=str(p.slide(3))) or None),
        "splits",
        "error",
        "leakage.*feature file: .*slide-3",
        "one split",
    ),
    "file of two cases": (
        lambda p: p.rows("train", lambda rows: rows[-1].update(features_path=str(p.slide(3))) or None),
        "splits",
        "error",
        "several cases: .*slide-3",
        "correct these rows",
    ),
    "barcode of two cases": (
        lambda p: p.rows("train", lambda rows: rows[-1].update(case_submitter_id="TCGA-AA-0003") or None),
        "splits",
        "warning",
        "several case_id: TCGA-AA-0003",
        "one case_id",
    ),
    "normal tissue beside the tumour": (
        lambda p: p.rows("train", lambda rows: rows[1].update(slide_submitter_id="TCGA-AA-0000-11A-01-TS1")),
        "splits",
        "warning",
        "1 slides of normal tissue are not read.*TCGA-AA-0000-11A-01-TS1",
        "remove these rows",
    ),
    "events inverted in one split": (
        several(
            *(
                lambda p, split=split: p.rows(
                    split,
                    lambda rows: (
                        [
                            row.update(
                                vital_status=int(int(row["case_id"][5:]) % 6 == 0) ^ (split == "train")
                            )
                            for row in rows
                        ]
                        and None
                    ),
                )
                for split in ("train", "val", "test")
            )
        ),
        "splits",
        "warning",
        "vital_status may be inverted",
        "1 is dead",
    ),
    "times of one split in days": (
        lambda p: p.rows(
            "val", lambda rows: [r.update(durations=20 * r["durations"]) for r in rows] and None
        ),
        "splits",
        "warning",
        "val: half of the patients.*another unit",
        "months",
    ),
    "classes of one split in another order": (
        lambda p: p.rows(
            "val", lambda rows: [r.update(primary_class=1 - r["primary_class"]) for r in rows] and None
        ),
        "splits",
        "warning",
        "val: .* of another class than the patients of their diagnosis",
        "primary_class",
    ),
    "class unknown to the model": (
        lambda p: p.rows("val", lambda rows: rows[-1].update(primary_class=2) or None),
        "splits",
        "error",
        r"classes \[2\]",
        "--num_classes",
    ),
    "one class": (
        lambda p: p.every_row("train", primary_class=0),
        "splits",
        "warning",
        "nobody of class 1; no probe",
        "stratified",
    ),
    "no deaths": (
        lambda p: p.every_row("train", vital_status=0),
        "splits",
        "warning",
        "0 deaths among 24",
        "vital_status",
    ),
    "negative time": (
        lambda p: p.rows("val", lambda rows: rows[-1].update(durations=-3.0) or None),
        "splits",
        "error",
        "case-37: durations is '-3.0'",
        "",
    ),
    "nobody validates": (
        lambda p: p.rows("val", lambda rows: []),
        "splits",
        "error",
        "no patient to run on",
        "again",
    ),
    "nobody is tested": (
        lambda p: p.rows("test", lambda rows: []),
        "splits",
        "warning",
        "nothing is evaluated",
        "again",
    ),
    "bad folds": (
        several(
            lambda p: (p.root / "splits_0.csv").write_text(",train,val\n0,TCGA-AA-0000,X-1\n1,X-2,X-3\n"),
            lambda p: p.flags.update(fold_json=p.root / "splits_0.csv"),
        ),
        "splits",
        "error",
        "3 patients that are in no split file",
        "fold file",
    ),
    # genes and pathways
    "no gene table": (
        lambda p: p.cohort.genes.unlink(),
        "genes",
        "error",
        "genes.csv does not exist",
        "make_gene_dataset",
    ),
    "NaN gene": (
        lambda p: p.genes(lambda t: t.mask(t == t.iloc[2, 3])),
        "genes",
        "error",
        "gene G3 of case TCGA-AA-0002",
        "make_gene_dataset",
    ),
    "raw counts": (
        lambda p: p.genes(lambda t: (2 ** (t + 8)).round()),
        "genes",
        "warning",
        "raw counts",
        "log2",
    ),
    "linear scale": (lambda p: p.genes(lambda t: 2 ** (t + 8)), "genes", "warning", "linear scale", "log2"),
    "extremes": (lambda p: p.genes(lambda t: t * 100), "genes", "warning", "extremes", "--clip 10"),
    "constant gene": (
        lambda p: p.genes(lambda t: t.assign(G4=1.5)),
        "genes",
        "warning",
        "1 of 10 genes are constant.*G4",
        "merged",
    ),
    "half without RNA": (
        lambda p: p.genes(lambda t: t.iloc[::2]),
        "genes",
        "warning",
        "26 of 52 patients have no RNA",
        "barcodes",
    ),
    "another cohort's genes": (
        lambda p: p.genes(lambda t: t.rename(index=lambda name: "X" + name)),
        "genes",
        "error",
        "no patient of the split",
        "cohort",
    ),
    "few pathway genes": (
        lambda p: p.genes(lambda t: t[["G0", "G3", "G5"]]),
        "pathways",
        "warning",
        "3 of 10 pathway genes.*3 of 4 pathways",
        "make_gene_dataset",
    ),
    "no pathway gene": (
        lambda p: p.genes(lambda t: t.rename(columns=lambda name: "ENSG" + name)),
        "pathways",
        "error",
        "no pathway keeps",
        "symbols",
    ),
    "no pathway table": (
        lambda p: p.cohort.pathways.unlink(),
        "pathways",
        "error",
        "pathways.csv does not exist",
        "--pathway_table",
    ),
    "genes of a trained model": (
        several(Subject.evaluate, lambda p: p.genes(lambda t: t[["G0", "G3", "G5"]])),
        "pathways",
        "error",
        r"lacks 7 of 10 genes of the model.*--max_missing_genes 0.7",
        "symbols of the training",
    ),
    # texts and clinical features
    "no texts": (
        lambda p: p.cohort.texts.unlink(),
        "texts",
        "error",
        "texts.pt does not exist",
        "make_textemb_conch",
    ),
    "case without text": (
        lambda p: p.tensors(p.cohort.texts, drop("case-3")),
        "texts",
        "error",
        "lacks 1 of 24 patients: case-3",
        "same split",
    ),
    "NaN text": (
        lambda p: p.tensors(p.cohort.texts, spoil("case-3", np.nan)),
        "texts",
        "error",
        "case-3 holds NaN",
        "make_textemb",
    ),
    "shape of a text": (
        lambda p: p.tensors(p.cohort.texts, lambda t: t.update({"case-3": torch.zeros(3, 512)})),
        "texts",
        "error",
        r"case-3 is \(3, 512\)",
        "make_textemb",
    ),
    "long text": (
        lambda p: p.tensors(p.cohort.texts, spoil("case-3", 1.0)),
        "texts",
        "warning",
        "L2-normalised: cases case-3",
        "make_textemb",
    ),
    "equal texts": (
        lambda p: p.tensors(p.cohort.texts, lambda t: t.update(dict.fromkeys(t, t["case-0"]))),
        "texts",
        "warning",
        "same general sentence",
        "make_textemb",
    ),
    "no clinical features": (
        lambda p: (
            p.flags.update(mil_name=CLINICAL, clinical_location=p.cohort.clinical),
            p.cohort.clinical.unlink(),
        ),
        "clinical",
        "error",
        "clinical.pt does not exist",
        "make_clinical",
    ),
    "half without clinical features": (
        several(
            lambda p: p.flags.update(mil_name=CLINICAL, clinical_location=p.cohort.clinical),
            lambda p: p.tensors(
                p.cohort.clinical, lambda content: [content.pop(f"case-{i}") for i in range(0, 52, 2)]
            ),
        ),
        "clinical",
        "warning",
        "26 of 52 patients have no clinical features, they are left out",
        "--missing_modalities learned",
    ),
    "clinical features of another cohort": (
        several(
            lambda p: p.flags.update(mil_name=CLINICAL, clinical_location=p.cohort.clinical_values),
            lambda p: p.cohort.clinical_values.write_text(
                p.cohort.clinical_values.read_text().replace("case-", "X-")
            ),
        ),
        "clinical",
        "error",
        "no patient of the split files is in .*clinical.csv",
        "--clinical_location",
    ),
    "columns of T and N exchanged": (
        several(
            lambda p: p.flags.update(mil_name=CLINICAL, clinical_location=p.cohort.clinical_values),
            lambda p: p.cohort.clinical_values.write_text(
                p.cohort.clinical_values.read_text().replace(
                    "ajcc_pathologic_t,ajcc_pathologic_n", "ajcc_pathologic_n,ajcc_pathologic_t"
                )
            ),
        ),
        "clinical",
        "warning",
        "clinical.csv: ajcc_pathologic_n names no AJCC category: T0",
        "names of the columns",
    ),
    "no vectors": (
        lambda p: p.flags.update(mil_name=VECTORS, vectors_location=p.root / "nowhere.pt"),
        "vectors",
        "error",
        "nowhere.pt does not exist",
        "--vectors_location",
    ),
    "NaN vector": (
        several(
            lambda p: p.flags.update(mil_name=VECTORS, vectors_location=p.cohort.vectors),
            lambda p: p.tensors(p.cohort.vectors, spoil("case-3", np.nan)),
        ),
        "vectors",
        "error",
        "case-3 holds NaN",
        "--vectors_location",
    ),
    "vectors of uneven number": (
        several(
            lambda p: p.flags.update(mil_name=VECTORS, vectors_location=p.cohort.vectors),
            lambda p: p.tensors(p.cohort.vectors, lambda c: c.update({"case-3": torch.zeros(7, 5)})),
        ),
        "model",
        "error",
        "vectors",
        "--model_config",
    ),
    "NaN age": (
        several(
            lambda p: p.flags.update(mil_name=CLINICAL, clinical_location=p.cohort.clinical),
            lambda p: p.tensors(p.cohort.clinical, spoil("case-51", np.nan)),
        ),
        "clinical",
        "error",
        "case-51 holds NaN",
        "make_clinical",
    ),
}

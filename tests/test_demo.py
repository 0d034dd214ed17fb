"""The demo, run by the script people run, for one cohort and then over four cancer sites, in one folder.

The planted signal is found, and only where it is; sites are told apart, and small ones learn from the others.
"""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
from tests.demo_runs import CONFIG, metric_of, run_commands, run_demo
from utils import constants

# Three fifths of the patients show the same in as much of the time.
SIZE = {"SCALE": "0.6"}
LENGTH = {"NUM_EPOCHS": "6", "EXTRA_ARGS": "--eval_interval 3"}
PANCANCER_LENGTH = {"NUM_EPOCHS": "8", "EXTRA_ARGS": "--eval_interval 2"}
SMALL_SITES = ("GBMLGG", "NSCLC", "RCC")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory, warm_python):
    """A demo folder after one run."""
    root = tmp_path_factory.mktemp("demo")
    run_demo(warm_python, root, **SIZE, **LENGTH)
    return root


def run_folder(root: Path) -> Path:
    return root / "runs" / "modaltune_gigapath_gene" / "BRCA"


def test_planted_signal_is_found(demo):
    assert metric_of(run_folder(demo), "balanced_accuracy") >= 0.8
    assert metric_of(run_folder(demo), "concordance_index") >= 0.65


def test_planted_signal_is_found_out_of_distribution(demo):
    assert metric_of(run_folder(demo) / "ood_BLCA", "balanced_accuracy") >= 0.7


def test_shuffled_pairing_finds_nothing(demo, tmp_path, quick_runs):
    """Chance is far from 0.5 in a dozen patients, so that three pairings are averaged."""
    folders = [shuffled_run(demo, tmp_path / str(seed), seed) for seed in range(3)]
    for metric, limit in (("balanced_accuracy", 0.75), ("concordance_index", 0.65)):
        assert np.mean([metric_of(folder, metric) for folder in folders]) < limit


def shuffled_run(demo: Path, root: Path, seed: int) -> Path:
    """A run on slides and genes of one patient with the labels and sentences of another."""
    splits = {
        s: json.loads((demo / f"splits/tcga_brca/{s}_brca_cls_feat.json").read_text())
        for s in constants.SPLITS
    }
    rows = [row for split in splits.values() for row in split["data"]]
    slides, barcodes = {}, {}
    genes = pd.read_csv(demo / "data/TCGA-tables/rna_brca.csv", index_col=0)
    for row in rows:
        if row["case_submitter_id"] in genes.index:
            slides.setdefault(row["case_id"], []).append(row["features_path"])
            barcodes[row["case_id"]] = row["case_submitter_id"]
    ids = sorted(slides)
    donors = dict(zip(ids, np.random.default_rng(seed).permutation(ids), strict=True))
    assert sum(case == donor for case, donor in donors.items()) < 0.1 * len(ids)
    root.mkdir()
    for name, split in splits.items():
        first = {row["case_id"]: row for row in split["data"] if row["case_id"] in donors}
        shuffled = [
            {**row, "features_path": path} for case, row in first.items() for path in slides[donors[case]]
        ]
        (root / f"{name}.json").write_text(json.dumps({"data": shuffled}))
    taken = genes.loc[[barcodes[donors[case]] for case in ids]]
    taken.index = pd.Index([barcodes[case] for case in ids], name="case_id")
    taken.to_csv(root / "genes.csv")

    arguments = [f"--{name}_json={root / name}.json" for name in constants.SPLITS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "FEATURES_ROOT", demo / "data/TCGA-extractedfeatures")
        train_modaltune.main(
            [
                *arguments,
                f"--genomics_csv_path={root / 'genes.csv'}",
                f"--text_location={demo / 'data/TCGA-tables/text_brca.pt'}",
                f"--pathway_table={demo / 'pathways.csv'}",
                f"--backbone_weights={demo / 'weights/prov-gigapath/slide_encoder.pth'}",
                f"--model_config={CONFIG}",
                f"--output_path={root / 'run'}",
                "--num_epochs=2",
                "--eval_interval=2",
                "--lr=1e-3",
                "--device=cpu",
                "--cache_features=ram",
            ]
        )
    return root / "run"


def test_corrupt_slide_is_reported(demo):
    with (demo / "data/TCGA-extractedfeatures/gigapath/TCGA-BRCA/extraction_report.csv").open() as handle:
        failed = [row for row in csv.DictReader(handle) if row["status"] == "failed"]
    assert len(failed) == 1 and failed[0]["reason"]
    dropped = (demo / "splits/tcga_brca/dropped_brca.csv").read_text()
    assert failed[0]["slide"].split(".")[0] in dropped


def test_new_patients_as_documented(demo, tmp_path, warm_python):
    """The commands of docs/prediction.md, on patients whose evaluation is known."""
    text = (constants.REPO_ROOT / "docs" / "prediction.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    script, published, bundle = (block for block in blocks if "RUNS=" in block or "utils.prediction" in block)
    assert "--eval_only" in published  # tests/utils/prediction
    features = tmp_path / "new" / "features"
    features.mkdir(parents=True)
    for path in sorted((demo / "data/TCGA-extractedfeatures/gigapath/TCGA-BRCA").glob("*.h5")):
        shutil.copy(path, features / path.name)
    shutil.copy(demo / "data/TCGA-tables/rna_brca.csv", tmp_path / "new" / "rna.csv")
    done = run_commands(
        warm_python,
        script + "mv predictions.csv first.csv\n" + bundle,
        tmp_path,
        demo,
        {"demo_data": demo, "new/": tmp_path / "new"},
    )
    assert done.returncode == 0, done.stderr
    first, second = (pd.read_csv(tmp_path / name) for name in ("first.csv", "predictions.csv"))
    pd.testing.assert_frame_equal(first, second, rtol=1e-6)
    table = first.set_index("patient")
    rows = json.loads((demo / "splits/tcga_brca/test_brca_cls_feat.json").read_text())["data"]
    names = {row["case_id"]: row["case_submitter_id"] for row in rows}
    theirs = pd.read_csv(run_folder(demo) / "seed_0" / "predictions" / "test.csv")
    theirs = theirs[theirs["task"] == "General"]
    assert len(theirs) >= 10
    shares = [column for column in table if column.startswith("probability ")]
    assert len(shares) == 2
    for row in theirs.to_dict("records"):
        ours = table.loc[names[row["case_id"]]]
        assert ours["risk"] == pytest.approx(row["risk"], abs=1e-5)
        assert ours[shares].tolist() == pytest.approx([row[column] for column in shares], abs=1e-5)
    without_rna = table.loc[table["error"].fillna("").str.contains("no RNA")]
    assert 0 < len(without_rna) < 15 and without_rna["risk"].isna().all()
    assert table["outside_training"].dropna().astype(bool).mean() < 0.2
    assert set(table["zero_shot_class"].dropna()) <= set(table["class"].dropna())


def test_run_again_makes_only_what_is_missing(demo, warm_python):
    features = sorted((demo / "data/TCGA-extractedfeatures/gigapath/TCGA-BRCA").glob("*.h5"))
    slides = sorted((demo / "data/TCGA-BRCA/images").rglob("*.svs"))
    weights = run_folder(demo) / "seed_0" / "best_model_weights.pt"
    before = torch.load(weights, weights_only=True)["model"]
    lost = features[1::8]
    kept = [*set(features).difference(lost), *slides[1:], weights]
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    for path in [*lost, slides[0], run_folder(demo) / "results.md"]:
        path.unlink()
    run_demo(warm_python, demo, **SIZE, **LENGTH)
    assert {path: path.stat().st_mtime_ns for path in kept} == stamps
    assert all(path.is_file() for path in [*features, *slides, run_folder(demo) / "results.md"])
    after = torch.load(weights, weights_only=True)["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)


# ---------------------------------------------------------------------------- four cancer sites
@pytest.fixture(scope="module")
def pancancer(demo, warm_python):
    """The run folder of one model over four sites, trained in the folder of the other demo."""
    run_demo(warm_python, demo, PANCANCER="1", **SIZE, **PANCANCER_LENGTH)
    return demo / "runs" / "modaltune_gigapath_gene" / "PANCANCER"


def test_one_model_over_four_sites(pancancer):
    assert metric_of(pancancer, "site_accuracy", "overall") >= 0.95
    assert metric_of(pancancer, "balanced_accuracy", "overall") >= 0.65
    assert metric_of(pancancer, "concordance_index", "overall") >= 0.65
    assert metric_of(pancancer / "ood_BLCA", "balanced_accuracy") >= 0.7
    assert metric_of(pancancer, "zero_shot_balanced_accuracy", "BRCA") >= 0.7
    assert metric_of(pancancer, "zero_shot_concordance_index", "BRCA") >= 0.6
    assert 0.0 <= metric_of(pancancer / "ood_BLCA", "zero_shot_balanced_accuracy") <= 1.0


def test_sites_learn_from_each_other(pancancer, demo, tmp_path, quick_runs):
    """Aggressiveness shows alike in all sites, so a small one gains from the others."""
    gains = {}
    for site in SMALL_SITES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "FEATURES_ROOT", demo / "data/TCGA-extractedfeatures")
            patch.setattr(constants, "TABLES_ROOT", demo / "data/TCGA-tables")
            patch.setattr(constants, "SPLITS_ROOT", demo / "splits")
            train_modaltune.main(
                [
                    f"--onco={site}",
                    f"--pathway_table={demo / 'pathways.csv'}",
                    f"--backbone_weights={demo / 'weights/prov-gigapath/slide_encoder.pth'}",
                    f"--model_config={CONFIG}",
                    f"--output_path={tmp_path / site}",
                    f"--num_epochs={PANCANCER_LENGTH['NUM_EPOCHS']}",
                    *PANCANCER_LENGTH["EXTRA_ARGS"].split(),
                    "--lr=1e-3",
                    "--device=cpu",
                    "--cache_features=ram",
                ]
            )
        alone = metric_of(tmp_path / site, "concordance_index")
        gains[site] = metric_of(pancancer, "concordance_index", site) - alone
        if gains[site] >= 0:
            break
    assert max(gains.values()) >= 0, gains

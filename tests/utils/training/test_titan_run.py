"""TITAN through ``train_modaltune.py``: what its ``--mil_name`` implies, and a small run of it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import train_modaltune
from data_utils.features.store import FeatureMeta, read_features, write_features
from models.encoders import slide_encoder
from models.slide_backbone import build_backbone
from tests.small_cohort import make_small_cohort
from tests.small_runs import TITAN_CONFIG, TITAN_ENCODER
from utils import constants
from utils.arguments import parse_args
from utils.files import write_json
from utils.training import checkpoint
from utils.training.trainer import BEST_WEIGHTS

pytestmark = pytest.mark.usefixtures("quick_runs")

NAME = "titan_gene_adapter"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    cohort = make_small_cohort(tmp_path_factory.mktemp("cohort"))
    write_json(cohort.model_config, TITAN_CONFIG)
    return cohort


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(5)
    state = build_backbone("titan", TITAN_ENCODER).vit.state_dict()
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file({f"vision_encoder.{name}": value.contiguous() for name, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def trained(cohort, weights, tmp_path_factory, quick_runs):
    output = tmp_path_factory.mktemp("trained") / "run"
    flags = cohort.flags(output, mil_name=NAME, random_backbone=None, backbone_weights=weights)
    train_modaltune.main(flags)
    return output


def parse(*words):
    return parse_args("test", ["--onco", "RCC", "--output_path", "out", *words])


# ---------------------------------------------------------------------------- what the name implies
@pytest.mark.parametrize(
    ("name", "encoder", "threshold"),
    [
        ("longnetvit_gene_adapter", "gigapath", 25_000),
        ("titan_gene_adapter", "titan", 15_000),
        ("titan_gene_clinical_adapter", "titan", 15_000),
        ("abmil", "gigapath", 25_000),
    ],
)
def test_the_name_implies_files_and_numbers(name, encoder, threshold, monkeypatch):
    monkeypatch.setattr(constants, "SPLITS_ROOT", Path("/splits"))
    args = parse("--mil_name", name)
    suffix = "" if encoder == "gigapath" else f"_{encoder}"
    assert args.data.train_json == Path(f"/splits/tcga_rcc/train_rcc_cls_feat{suffix}.json")
    assert args.data.threshold == threshold and args.data.patch_size_lv0 is None
    config = "baseline_abmil.json" if name == "abmil" else f"modaltune_{encoder}_config.json"
    assert args.model.model_config.name == config and args.model.model_config.is_file()
    assert args.model.backbone_weights == slide_encoder(encoder).weights()


def test_flags_win_over_what_the_name_implies():
    words = ["--threshold", "7", "--model_config", "m.json", "--backbone_weights", "w", "--test_json", "t"]
    args = parse("--mil_name", NAME, *words, "--patch_size_lv0", "512")
    assert (args.model.model_config, args.model.backbone_weights) == (Path("m.json"), Path("w"))
    assert (args.data.test_json, args.data.patch_size_lv0, args.data.threshold) == (Path("t"), 512, 7)


def test_a_patch_size_below_one_stops_with_usage(capsys):
    with pytest.raises(SystemExit):
        parse("--patch_size_lv0", "0")
    assert "--patch_size_lv0 must be at least 1" in capsys.readouterr().err


# ---------------------------------------------------------------------------- runs
def test_it_trains_and_is_evaluated(trained, cohort, weights, tmp_path):
    table = pd.read_csv(trained / "results.csv")
    assert set(table.split) == set(constants.SPLITS) and np.isfinite(table[table.n > 0]["value"]).any()
    saved = checkpoint.load(trained / "seed_0" / BEST_WEIGHTS)["model"]
    assert not [name for name in saved if name.startswith("backbone.")]
    flags = cohort.flags(
        tmp_path / "again",
        mil_name=NAME,
        random_backbone=None,
        backbone_weights=weights,
        eval_only=True,
        eval_weights=trained,
    )
    train_modaltune.main(flags)
    again = pd.read_csv(tmp_path / "again" / "seed_0" / "report.csv")
    pd.testing.assert_frame_equal(again, pd.read_csv(trained / "seed_0" / "report.csv"))


def test_its_weights_under_another_encoders_name_are_refused(trained, cohort, tmp_path):
    flags = cohort.flags(tmp_path / "run", eval_only=True, eval_weights=trained)
    with pytest.raises(ValueError, match=r"are of titan_gene_adapter, on the slide encoder titan; pass that"):
        train_modaltune.main(flags)


def test_another_encoders_weights_are_refused(cohort, tmp_path):
    torch.save({"model": {}}, tmp_path / "slide_encoder.pth")
    flags = cohort.flags(
        tmp_path / "run", mil_name=NAME, random_backbone=None, backbone_weights=tmp_path / "slide_encoder.pth"
    )
    with pytest.raises(ValueError, match=r"slide_encoder\.pth holds no tensor of checkpoint of the TITAN"):
        train_modaltune.main(flags)


def test_features_that_state_no_patch_size_need_the_flag(cohort, tmp_path):
    for split in constants.SPLITS:
        rows = json.loads(cohort.split(split).read_text())["data"]
        for row in rows:
            slide = read_features(row["features_path"])
            row["features_path"] = str(tmp_path / Path(row["features_path"]).name)
            write_features(row["features_path"], slide.features, slide.coords, FeatureMeta(), "float32")
        write_json(tmp_path / f"{split}.json", {"data": rows})
    splits = {f"{split}_json": tmp_path / f"{split}.json" for split in constants.SPLITS}
    flags = cohort.flags(tmp_path / "run", mil_name=NAME, num_epochs=1, **splits)
    with pytest.raises(
        ValueError, match=r"slide-.*\.h5: no patch_size_level0.*--patch_size_lv0.*suggest 256"
    ):
        train_modaltune.main(flags)
    flags = cohort.flags(tmp_path / "other", mil_name=NAME, num_epochs=1, patch_size_lv0=256, **splits)
    train_modaltune.main(flags)
    assert (tmp_path / "other" / "results.csv").is_file()

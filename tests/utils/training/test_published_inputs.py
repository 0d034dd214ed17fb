"""Files and flags of the published code, through the command line people type."""

import json
import logging
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
from tests.small_cohort import make_small_cohort
from utils import constants
from utils.training.trainer import BEST_WEIGHTS

pytestmark = pytest.mark.usefixtures("quick_runs")

CLINICAL = "longnetvit_gene_clinical_adapter"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_small_cohort(tmp_path_factory.mktemp("cohort"))


def test_folds_of_rows_run(cohort, tmp_path):
    """The published ``--fold_json``: rows of split files, as many folds as it has."""
    rows = {s: json.loads(cohort.split(s).read_text())["data"] for s in constants.SPLITS}
    swapped = {"train": rows["train"], "val": rows["test"], "test": rows["val"]}
    (tmp_path / "folds.json").write_text(json.dumps([rows, swapped]))
    output = tmp_path / "run"
    train_modaltune.main(cohort.flags(output, fold_json=tmp_path / "folds.json", num_epochs=1))
    tested = [pd.read_csv(output / f"fold_{k}/seed_0/predictions/test.csv").case_id for k in (0, 1)]
    assert set(tested[0]) == {row["case_id"] for row in rows["test"]}
    assert set(tested[1]) == {row["case_id"] for row in rows["val"]}


def test_clinical_tensors_without_an_age_run(cohort, tmp_path, caplog):
    """The published script leaves NaN for missing ages, which poisons its run."""
    table = torch.load(cohort.clinical)
    first = next(iter(table))
    table[first][0] = np.nan
    torch.save(table, tmp_path / "clinical.pt")
    with caplog.at_level(logging.WARNING):
        train_modaltune.main(
            cohort.flags(
                tmp_path / "run", mil_name=CLINICAL, clinical_location=tmp_path / "clinical.pt", num_epochs=1
            )
        )
    assert f"ages are missing, such as that of {first}" in caplog.text
    history = pd.read_csv(tmp_path / "run" / "seed_0" / "metrics.csv")
    assert np.isfinite(history["loss"]).all() and not history["skipped"].any()


def test_published_words_of_flags(cohort, tmp_path):
    """``--multi_seed 1`` is three seeds there, ``--eval_only 0`` a training, ``--clinical_location None`` none."""
    words = cohort.flags(tmp_path / "run", num_epochs=1, clinical_location="None", beta1=0.8)
    train_modaltune.main([*words, "--multi_seed", "1", "--eval_only", "0"])
    folders = sorted(path.parent.name for path in (tmp_path / "run").glob(f"*/{BEST_WEIGHTS}"))
    assert folders == ["seed_0", "seed_1", "seed_2"]
    arguments = json.loads((tmp_path / "run" / "config.json").read_text())["arguments"]
    assert arguments["training"]["beta1"] == 0.8 and arguments["data"]["files"]["clinical"] is None


def test_a_model_config_by_name(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "CONFIGS_ROOT", tmp_path)
    shutil.copy(cohort.model_config, tmp_path / "modaltune_small.json")
    train_modaltune.main(cohort.flags(tmp_path / "run", model_config="modaltune_small", num_epochs=1))
    assert (tmp_path / "run" / "results.md").is_file()


def test_what_cannot_be_honoured_is_refused_by_name(cohort, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        train_modaltune.main([*cohort.flags(tmp_path / "run"), "--labelset", "2"])
    assert "--labelset is not supported: the classes of a cohort" in capsys.readouterr().err

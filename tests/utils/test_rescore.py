"""Scoring saved embeddings again, without the model."""

import json
import shutil

import pandas as pd
import pytest

import train_modaltune
from tests.small_cohort import make_small_cohort
from utils import rescore
from utils.training.trainer import BEST_WEIGHTS

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_runs):
    cohort = make_small_cohort(tmp_path_factory.mktemp("cohort"))
    output = tmp_path_factory.mktemp("trained") / "run"
    train_modaltune.main(cohort.flags(output, num_epochs=1, multi_seed=2))
    return output


def test_a_run_scored_again_has_its_numbers(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for path in (tmp_path / "run").rglob("*.pt"):
        path.unlink()  # no model is needed
    rescore.main([str(tmp_path / "run"), str(tmp_path / "again")])
    for seed in ("seed_0", "seed_1"):
        assert (tmp_path / "again" / seed / "report.csv").read_text() == (
            trained / seed / "report.csv"
        ).read_text()
        assert (tmp_path / "again" / seed / "predictions" / "test.csv").is_file()
    tables = [pd.read_csv(folder / "results.csv") for folder in (trained, tmp_path / "again")]
    pd.testing.assert_frame_equal(*tables)
    assert "**rescored**" in (tmp_path / "again" / "results.md").read_text()
    with pytest.raises(FileExistsError, match="again exists"):
        rescore.main([str(trained), str(tmp_path / "again")])


def test_where_nothing_can_be_written_nothing_is_scored(trained, tmp_path):
    (tmp_path / "file").write_text("older")
    with pytest.raises(OSError, match=f"nothing can be written to the folder {tmp_path / 'file'}"):
        rescore.main([str(trained), str(tmp_path / "file" / "again")])
    assert (tmp_path / "file").read_text() == "older"


def test_an_evaluation_in_the_run_folder_is_no_seed_of_it(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    inner = tmp_path / "run" / "ood_X"
    shutil.copytree(trained / "seed_0", inner / "seed_0")
    shutil.copy(trained / "config.json", inner / "config.json")
    rescore.main([str(tmp_path / "run"), str(tmp_path / "again")])
    assert not (tmp_path / "again" / "ood_X").exists()
    rescore.main([str(inner), str(tmp_path / "of_evaluation")])
    assert (tmp_path / "of_evaluation" / "seed_0" / "report.csv").is_file()


def test_a_folder_without_embeddings_is_named(trained, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(json.loads((trained / "config.json").read_text())))
    with pytest.raises(FileNotFoundError, match="no fold or seed holds data/train_embeddings"):
        rescore.rescore(tmp_path, tmp_path / "again")
    assert (trained / "seed_0" / BEST_WEIGHTS).is_file()

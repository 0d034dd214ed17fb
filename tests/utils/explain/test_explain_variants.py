"""The command on runs of another kind: several cancer sites, another slide encoder, weights evaluated elsewhere."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
import train_modaltune_pancancer
from tests.small_cohort import make_small_cohort
from tests.small_runs import TITAN_CONFIG
from tests.test_train_modaltune_pancancer import flags, union  # noqa: F401 - a fixture
from utils.explain.__main__ import main
from utils.explain.loaded_run import LoadedRun
from utils.explain.sentences import TextModel
from utils.files import write_json

pytestmark = pytest.mark.usefixtures("quick_runs")


def summaries(report):
    found = {
        path.parent.name: json.loads(path.read_text()) for path in report.glob("patients/*/summary.json")
    }
    assert found
    return found


def as_evaluated(report, predictions):
    """Whether risk and class are what the run itself says of the patients, and are accounted for."""
    table = pd.read_csv(predictions)
    table = table[table["task"] == "General"].set_index("case_id")
    second = [name for name in table if name.startswith("probability ")][1]  # the column has the class's name
    for summary in summaries(report).values():
        row, targets = table.loc[summary["case_id"]], summary["targets"]
        assert targets["risk"]["value"] == pytest.approx(row["risk"], abs=1e-3)
        assert targets["probability_1"]["value"] == pytest.approx(row[second], abs=1e-4)
        assert all(content["gap"] < 0.01 for content in targets.values())


def test_a_site_of_a_pancancer_run_by_its_own_probes(union, tmp_path):  # noqa: F811
    run = tmp_path / "run"
    train_modaltune_pancancer.main(flags(union, run, num_epochs=1))
    words = [str(run), "--device", "cpu", "--limit", "1", "--targets", "risk", "probability:1", "zero_shot:0"]
    with pytest.raises(ValueError, match="--site: BRCA, GBMLGG"):
        main(words)
    main([*words, "--site", "gbmlgg"])
    as_evaluated(run / "report" / "GBMLGG", run / "seed_0" / "sites" / "GBMLGG" / "predictions" / "test.csv")
    assert all(int(name[-4:]) >= 100 for name in summaries(run / "report" / "GBMLGG"))  # of the second site
    assert "GBMLGG" in (run / "report" / "GBMLGG" / "index.html").read_text()


def test_titan(tmp_path):
    cohort = make_small_cohort(tmp_path / "cohort")
    write_json(cohort.model_config, TITAN_CONFIG)
    run = tmp_path / "run"
    train_modaltune.main(cohort.flags(run, mil_name="titan_gene_adapter", num_epochs=1))
    main([str(run), "--device", "cpu", "--limit", "1", "--targets", "risk", "probability:1"])
    as_evaluated(run / "report", run / "seed_0" / "predictions" / "test.csv")
    for patches in run.glob("report/patients/*/patches.csv"):
        assert np.abs(pd.read_csv(patches)["risk"]).sum() > 0


def test_a_cohort_on_which_weights_were_evaluated(tmp_path):
    trained_on, other = make_small_cohort(tmp_path / "a"), make_small_cohort(tmp_path / "b", first=500)
    run, evaluation = tmp_path / "run", tmp_path / "evaluation"
    train_modaltune.main(trained_on.flags(run, num_epochs=1))
    train_modaltune.main(other.flags(evaluation, eval_only=True, eval_weights=run, text_location=None))
    main([str(evaluation), "--device", "cpu", "--limit", "1", "--targets", "risk", "probability:1"])
    as_evaluated(evaluation / "report", evaluation / "seed_0" / "predictions" / "test.csv")
    loaded = LoadedRun.open(run, torch.device("cpu"))
    vector = torch.randn(512, generator=torch.Generator().manual_seed(0))
    torch.save({"a lobular carcinoma": 3 * vector, "wide": torch.ones(5)}, tmp_path / "vectors.pt")
    words, model = ["text:a lobular carcinoma"], TextModel(tmp_path / "vectors.pt")
    (target,) = loaded.targets(words, "General", model)
    with torch.no_grad():
        output, text = (
            loaded.model(loaded.datasets["test"][0])[0],
            loaded.objective.project(vector / vector.norm()),
        )
    expected = torch.nn.functional.cosine_similarity(output, text, dim=0)
    assert float(target(output)) == pytest.approx(float(expected), abs=1e-6)
    assert target.title == 'similarity to "a lobular carcinoma"'
    with pytest.raises(ValueError, match="5 numbers, but the run learned from sentences of 512"):
        loaded.targets(["text:wide"], "General", model)
    with pytest.raises(ValueError, match=r"--site BRCA: .* is no pan-cancer run"):
        LoadedRun.open(run, torch.device("cpu"), site="BRCA")
    (run / "seed_0" / "probes.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"probes\.npz does not exist.*--eval_weights"):
        LoadedRun.open(run, torch.device("cpu"))

"""Models that read no patches: no feature files in training, evaluation, doctor and prediction."""

import json
import shutil

import pandas as pd
import pytest

import train_modaltune
from models.aggregators import aggregator, build_aggregator
from models.aggregators.registry import DataSpec
from models.aggregators.single_vector import PATCHES
from tests.small_cohort import IN_DIM, PATHWAYS, SmallCohort, make_small_cohort
from tests.structures import structures
from utils import constants, doctor
from utils.prediction.__main__ import main as predict

pytestmark = pytest.mark.usefixtures("quick_runs")
IMAGE_FREE = {
    "mlp": {"width": 8},
    "snn": {"widths": [8, 8]},
    "gene_mixer": {"dim": 8, "hidden_dim": 8, "depth": 1, "num_tokens": 4},
    "clinical_mlp": {"dim": 8},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Without feature files, and with split files that do not say where they were."""
    cohort = make_small_cohort(tmp_path_factory.mktemp("cohort"), train=20, val=10, test=10)
    shutil.rmtree(cohort.root / "features")
    for split in constants.SPLITS:
        rows = json.loads(cohort.split(split).read_text())["data"]
        for row in rows:
            del row["features_path"]
        cohort.split(split).write_text(json.dumps({"data": rows}))
    return cohort


def flags(cohort: SmallCohort, output, name, config, **changes):
    path = cohort.root / f"{name}.json"
    path.write_text(json.dumps(config))
    own = {"mil_name": name, "model_config": path, "clinical_location": cohort.clinical_values}
    return cohort.flags(output, **({"text_location": None} | own | changes))


def mean_rows(folder):
    table = pd.read_csv(folder / "results.csv")
    return table[table.run == "mean"].set_index(["task", "split", "metric"]).value


@pytest.mark.parametrize("name", IMAGE_FREE)
def test_no_feature_file_is_needed_anywhere(name, cohort, tmp_path, capsys):
    words = flags(cohort, tmp_path / "run", name, IMAGE_FREE[name])
    assert doctor.main(words) == 0
    assert f"{name} reads no patches: it needs no feature files" in " ".join(capsys.readouterr().out.split())
    train_modaltune.main(words)
    table = pd.read_csv(tmp_path / "run" / "seed_0" / "modalities.csv")
    assert table.modality.tolist() == ["clinical" if name == "clinical_mlp" else "genes"]
    again = flags(
        cohort,
        tmp_path / "again",
        name,
        IMAGE_FREE[name],
        eval_only=True,
        eval_weights=tmp_path / "run",
        features_dir="nowhere",  # named for nothing
    )
    train_modaltune.main(again)
    pd.testing.assert_series_equal(mean_rows(tmp_path / "again"), mean_rows(tmp_path / "run"))


def test_new_patients_are_those_of_the_tables(cohort, tmp_path, capsys):
    train_modaltune.main(flags(cohort, tmp_path / "run", "snn", IMAGE_FREE["snn"]))
    output = tmp_path / "predictions.csv"
    words = [
        str(tmp_path / "run"),
        "--genomics_csv_path",
        str(cohort.genes),
        "--pathway_table",
        str(cohort.pathways),
        "--output",
        str(output),
    ]
    assert predict(words) == 0
    predicted = pd.read_csv(output).set_index("patient")
    assert sorted(predicted.index) == sorted(pd.read_csv(cohort.genes).case_id)
    test = pd.read_csv(tmp_path / "run" / "seed_0" / "predictions" / "test.csv").set_index("case_id")
    barcodes = {
        row["case_id"]: row["case_submitter_id"]
        for row in json.loads(cohort.split("test").read_text())["data"]
    }
    for case, barcode in barcodes.items():
        assert predicted.risk[barcode] == pytest.approx(test.risk[case], abs=1e-6)
    with pytest.raises(SystemExit):
        predict([*words, "--patients", "table.csv"])
    assert "--patients and --per_slide are about slides: pass --features_dir" in capsys.readouterr().err


def test_models_with_patches_still_need_them(tmp_path, cohort, capsys):
    words = flags(cohort, tmp_path / "run", "abmil", {"feature_dim": IN_DIM})
    with pytest.raises(ValueError, match=r"lacks \['features_path'\]"):
        train_modaltune.main(words)


@pytest.mark.parametrize("name", ["abmil", "transmil", "survpath", "abmil_cat", "transmil_cat", *IMAGE_FREE])
def test_the_registry_says_what_the_networks_read(name):
    config = IMAGE_FREE.get(name, {"feature_dim": 7})
    model = build_aggregator(name, config, DataSpec(structures(list(PATHWAYS.values())), 1))
    assert aggregator(name).patches == (PATCHES in model.inputs)


def test_another_feature_width_is_named(tmp_path):
    cohort = make_small_cohort(tmp_path / "cohort", train=16, val=8, test=8)
    words = flags(cohort, tmp_path / "run", "abmil", {"feature_dim": 7})
    with pytest.raises(
        ValueError,
        match="patch features are 10 wide, the model config says feature_dim 7; pass a --model_config",
    ):
        train_modaltune.main(words)
    findings = doctor.examine(*doctor.parse_args(words))
    (found,) = [f for f in findings if f.level == "error"]
    assert "feature files are [10] wide, abmil takes 7" in found.what
    assert "pass a --model_config with the feature_dim of these files" in found.remedy

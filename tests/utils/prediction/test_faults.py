"""What can be wrong with new patients, files and machines: named, and nothing is silently another prediction."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
import train_modaltune_pancancer
from data_utils.features.store import FeatureMeta, write_features
from tests.small_cohort import IN_DIM
from tests.small_runs import small_model
from tests.test_train_modaltune_pancancer import flags, union  # noqa: F401 - a fixture
from tests.utils.prediction.test_prediction import cohort, new, predict, trained  # noqa: F401 - fixtures
from tests.utils.training.test_baseline_run import flags as baseline_flags
from utils import checkpoint

pytestmark = pytest.mark.usefixtures("quick_runs")


def test_slides_with_several_files_leave_the_other_patients_alone(trained, cohort, new, tmp_path):  # noqa: F811
    folder = tmp_path / "new"
    shutil.copytree(new, folder)
    shutil.copy(folder / "features" / "slide-0.h5", folder / "features" / "slide-0.hdf5")
    status, found = predict(folder, cohort, tmp_path / "p.csv", trained)
    assert status == 0
    (message,) = found["error"].dropna()
    assert "slide slide-0 could be ['slide-0.h5', 'slide-0.hdf5']; keep one" in message
    _, found = predict(folder, cohort, tmp_path / "p.csv", trained, patients=None)
    assert message in set(found["error"])


def test_embeddings_are_read_by_anndata(trained, cohort, new, tmp_path):  # noqa: F811
    anndata = pytest.importorskip("anndata")
    predict(new, cohort, tmp_path / "p.csv", trained, embeddings=tmp_path / "e.npz")
    predict(new, cohort, tmp_path / "p.csv", trained, embeddings=tmp_path / "e.h5ad")
    found = anndata.read_h5ad(tmp_path / "e.h5ad")
    with np.load(tmp_path / "e.npz") as arrays:
        assert found.obs["patient"].tolist() == arrays["patients"].tolist()
        np.testing.assert_array_equal(found.X, arrays["vectors"][0, :, 0])
        np.testing.assert_array_equal(found.obsm["run-seed_1-Survival"], arrays["vectors"][1, :, 2])


def test_another_slide_encoder_is_refused(cohort, new, tmp_path):  # noqa: F811
    """On another machine the file may be missing, or be of another release: the numbers would mean nothing."""
    state = {k.removeprefix("backbone.vit."): v for k, v in small_model().state_dict().items()}
    encoder = tmp_path / "slide_encoder.pth"
    torch.save({"model": state}, encoder)
    run = tmp_path / "run"
    words = cohort.flags(run, num_epochs=1, random_backbone=None, backbone_weights=encoder)
    train_modaltune.main(words)
    checkpoint.main(["bundle", str(run), str(tmp_path / "bundle")])
    moved = encoder.rename(tmp_path / "moved.pth")
    _, before = predict(new, cohort, tmp_path / "p.csv", tmp_path / "bundle", backbone_weights=moved)
    assert before["error"].isna().all()
    torch.save({"model": {name: value + 0.01 for name, value in state.items()}}, encoder)
    for folder in ("run", "bundle"):
        with pytest.raises(ValueError, match=r"slide_encoder\.pth is not the slide encoder that .*SHA-256"):
            predict(new, cohort, tmp_path / "p.csv", tmp_path / folder)


@pytest.mark.parametrize("scaling", ["site", "union"])
def test_genes_of_one_site_are_scaled_as_in_the_training(union, tmp_path, scaling):  # noqa: F811
    run, features = tmp_path / "run", tmp_path / "new" / "features"
    train_modaltune_pancancer.main(flags(union, run, num_epochs=1, gene_scaling=scaling))
    features.mkdir(parents=True)
    rows = json.loads(union.split("test").read_text())["data"]
    rows = [row for row in rows if row["site"] == "GBMLGG"]
    for row in rows:
        shutil.copy(row["features_path"], features / f"{row['slide_submitter_id']}.h5")
    genes = pd.read_csv(union.genes)
    genes[genes["site"] == "GBMLGG"].drop(columns="site").to_csv(tmp_path / "genes.csv", index=False)
    asked = {"patients": None, "genomics_csv_path": tmp_path / "genes.csv"}
    with pytest.raises(ValueError, match="--site: BRCA, GBMLGG"):
        predict(tmp_path / "new", union, tmp_path / "p.csv", run, **asked)
    status, found = predict(tmp_path / "new", union, tmp_path / "p.csv", run, **asked, site="GBMLGG")
    theirs = pd.read_csv(run / "seed_0" / "sites" / "GBMLGG" / "predictions" / "test.csv")
    theirs = theirs[theirs["task"] == "General"].set_index("case_id")
    names = {row["case_submitter_id"]: row["case_id"] for row in rows}
    assert status == 0 and set(found["patient"]) == set(names)
    for row in found.itertuples():
        assert row.risk == pytest.approx(theirs.loc[names[row.patient], "risk"], abs=1e-6)
    checkpoint.main(["bundle", str(run), str(tmp_path / "bundle")])
    assert {path.name for path in (tmp_path / "bundle" / "cohorts").iterdir()} == {"brca.json", "gbmlgg.json"}
    _, again = predict(
        tmp_path / "new", union, tmp_path / "p.csv", tmp_path / "bundle", **asked, site="GBMLGG"
    )
    pd.testing.assert_frame_equal(again, found)


def test_features_of_another_encoder_are_named(new, cohort, tmp_path):  # noqa: F811
    run, folder = tmp_path / "run", tmp_path / "new"
    train_modaltune.main(baseline_flags(cohort, run, "abmil", num_epochs=1))
    shutil.copytree(new, folder)
    corners = 256 * np.stack([np.arange(5), np.zeros(5, int)], axis=1)
    meta = FeatureMeta(256, 256, 0.5, 0.5, "another")
    write_features(folder / "features" / "slide-0.h5", np.ones((5, IN_DIM + 3)), corners, meta)
    status, found = predict(folder, cohort, tmp_path / "p.csv", run, genomics_csv_path=None)
    (message,) = found["error"].dropna()
    assert status == 0 and "13" in message and found["risk"].notna().sum() == len(found) - 1


def test_impossible_months_are_refused(trained, cohort, new, tmp_path):  # noqa: F811
    with pytest.raises(SystemExit):
        predict(new, cohort, tmp_path / "p.csv", trained, months=-4)
    assert not (tmp_path / "p.csv").exists()

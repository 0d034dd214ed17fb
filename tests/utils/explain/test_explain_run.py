"""The command on a small run: files, resuming, and what they hold."""

import json
import logging
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
from data_utils.features.store import read_coords
from tests.small_cohort import PATHWAYS, make_small_cohort
from tests.small_runs import quick_evaluation
from tests.utils.explain.html_page import check_page
from utils.evaluation import plots
from utils.explain import patients
from utils.explain.__main__ import main
from utils.explain.attribution import PATCHES, Attribution
from utils.explain.loaded_run import LoadedRun
from utils.explain.maps import draw_map
from utils.explain.targets import Linear, LinearTarget
from utils.files import FileError


@pytest.fixture(scope="module", autouse=True)
def quick_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plots.STYLE, "savefig.dpi", 50)
        patch.setitem(plots.STYLE, "figure.constrained_layout.use", False)
        yield


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_small_cohort(tmp_path_factory.mktemp("cohort"), train=12)


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with quick_evaluation():
        train_modaltune.main(cohort.flags(folder))
    return folder


@pytest.fixture(scope="module")
def report(run):
    main([str(run), "--device", "cpu", "--limit", "3"])
    return run / "report"


def test_targets_are_what_the_probes_of_the_run_predict(run):
    loaded = LoadedRun.open(run, torch.device("cpu"))
    predictions = (
        pd.read_csv(run / "seed_0/predictions/test.csv").query("task == 'General'").set_index("case_id")
    )
    targets = {t.name: t for t in loaded.targets(["class", "probability:1", "risk"], "General")}
    for case in (loaded.datasets["test"][k] for k in range(4)):
        with torch.no_grad():
            output = loaded.model(case)[0]
        row = predictions.loc[case.case_id]
        assert float(targets["probability_1"](output)) == pytest.approx(row["probability class 1"], abs=1e-4)
        assert torch.sigmoid(targets["class_1"](output)).item() == pytest.approx(
            row["probability class 1"], abs=1e-4
        )
        assert float(targets["risk"](output)) == pytest.approx(row.risk, abs=1e-3)


def test_every_patient_has_tables_that_add_up(report):
    folders = sorted((report / "patients").iterdir())
    assert len(folders) == 3
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        patches = pd.read_csv(folder / "patches.csv")
        for name, content in summary["targets"].items():
            inputs = pd.read_csv(folder / f"inputs_{name}.csv")
            total = patches[name].sum() + inputs.attribution.sum()
            change = content["value"] - content["baseline_value"]
            assert total == pytest.approx(change, abs=1.01 * content["gap"] * abs(change) + 1e-6)
            assert content["missing"] == pytest.approx(abs(total - change), abs=1e-6)
            assert sum(content["groups"].values()) == pytest.approx(inputs.attribution.sum())
            assert set(inputs.group) == {"A", "B", "C", "D"}


def test_polygons_lie_on_the_tiles_of_their_slide(run, report):
    loaded = LoadedRun.open(run, torch.device("cpu"))
    slides = {s.stem: s for p in loaded.datasets["test"].patients for s in p.slides}
    found = sorted(report.glob("patients/*/*.geojson"))
    assert len(found) >= 3
    for path in found:
        content = json.loads(path.read_text())
        assert content["type"] == "FeatureCollection"
        corners, meta = read_coords(slides[path.stem])
        assert len(content["features"]) == len(corners)
        for feature, corner in zip(content["features"], corners, strict=True):
            assert feature["geometry"]["type"] == "Polygon"
            ring = np.array(feature["geometry"]["coordinates"][0])
            assert (ring[0] == ring[-1]).all()
            assert (ring.min(axis=0) == corner).all()
            assert (ring.max(axis=0) == corner + meta.patch_size_level0).all()
            assert set(feature["properties"]["measurements"]) == {
                *("class_1", "risk"),
                *("attention_task", "attention_genes"),
            }


def test_pages_hold_everything_they_show(report):
    pages = [report / "index.html", *report.glob("patients/*/index.html")]
    assert len(pages) == 4
    for page in pages:
        assert check_page(page).images


def test_a_page_shows_attention_and_what_lies_inside_pathways(report):
    folder = next((report / "patients").iterdir())
    page = check_page(folder / "index.html")
    slide = next(folder.glob("*.geojson")).stem
    assert "Where the tokens look" in page.texts["h2"]
    assert f"Attention of the tokens to the patches of {slide}" in page.captions
    assert page.texts["figcaption"].count("Inside the groups (pathways) with the greatest attributions") == 2
    (origin,) = [table for table in page.tables if table[0][0] == "rollout: comes from"]
    for _, *shares in origin[1:]:
        assert sum(float(share.rstrip("%")) for share in shares) == pytest.approx(100, abs=0.3)


def test_attention_of_every_patch_is_written(run, report, tmp_path):
    folder = next((report / "patients").iterdir())
    table, patches = (pd.read_csv(folder / name) for name in ("attention.csv", "patches.csv"))
    assert (table[["slide", "x", "y", "size"]] == patches[["slide", "x", "y", "size"]]).all(axis=None)
    for name in table.columns[4:]:
        layer, _, group = name.partition(".")
        if "extractor" in layer:
            assert table[name].sum() == pytest.approx(1, abs=1e-5)
        elif "injector" in layer:
            other = {"task": "genes", "genes": "task"}[group]
            np.testing.assert_allclose(table[name] + table[f"{layer}.{other}"], 1, atol=1e-5)
        else:
            np.testing.assert_allclose(table[name], patches[f"attention_{group}"], atol=1e-6)
    assert not (folder / "attention_heads.npz").exists()
    flags = ["--attention_heads", "--targets", "class", "--steps", "1", "--output", str(tmp_path)]
    main([str(run), "--device", "cpu", "--patients", folder.name, *flags])
    with np.load(tmp_path / "patients" / folder.name / "attention_heads.npz") as heads:
        groups = list(heads["groups"])
        for layer in set(heads.files) - {"groups"}:
            for k, group in enumerate(groups):
                mean = heads[layer][:, k].mean(axis=0)
                np.testing.assert_allclose(mean, table[f"{layer}.{group}"], atol=1e-6)


def test_genes_inside_pathways_over_patients(report):
    table = pd.read_csv(report / "members_risk.csv")
    tables = [pd.read_csv(path) for path in report.glob("patients/*/inputs_risk.csv")]
    assert len(table) == sum(map(len, PATHWAYS.values()))
    for row in table.itertuples():
        values = [t[(t.group == row.group) & (t.name == row.name)].attribution.item() for t in tables]
        assert row.mean == pytest.approx(np.mean(values))
        assert row.mean_abs == pytest.approx(np.abs(values).mean())
        assert row.patients == 3


@pytest.fixture
def explain(run, tmp_path, monkeypatch):
    """Explains a patient of two slides; the attribution of a patch is its first feature and tells where it belongs."""

    def first_feature(model, case, *_):
        return Attribution(case.features[:, 0].numpy(), {}, {}, {PATCHES: 0.0}, 0.0, 0.0, 1, 0.0)

    def explained(most=None):
        monkeypatch.setattr(patients, "explain_case", first_feature)
        loaded = LoadedRun.open(run, torch.device("cpu"))
        dataset = loaded.datasets["train"]
        dataset.options = replace(dataset.options, threshold=most)
        index = next(k for k, patient in enumerate(dataset.patients) if len(patient.slides) == 2)
        target = LinearTarget("risk", "risk", 0, Linear.plain(np.zeros(6), np.zeros(())))
        settings = patients.Settings(1, "mean", "General", ("risk",), "seed_0")
        patients.explain_patient(loaded, dataset, index, [target], {}, settings, tmp_path, {})
        return tmp_path, dataset.patients[index].slides

    return explained


@pytest.mark.parametrize("most", [None, 7])
def test_every_slide_of_a_patient_has_its_own_patches(explain, monkeypatch, most):
    """Also where only some of the patches are read."""
    scales = []
    monkeypatch.setattr(patients, "draw_map", lambda *given: (scales.append(given[-1]), draw_map(*given)))
    folder, slides = explain(most)
    table, attention = (pd.read_csv(folder / name) for name in ("patches.csv", "attention.csv"))
    page = check_page(folder / "index.html")
    assert list(dict.fromkeys(table.slide)) == [slide.stem for slide in slides]
    assert most is None or len(table) == most
    for slide in slides:
        with h5py.File(slide) as file:
            corners, features = np.squeeze(file["coords"][:]), np.squeeze(file["features"][:])
        first = {tuple(xy): value for xy, value in zip(corners.tolist(), features[:, 0], strict=True)}
        own = table[table.slide == slide.stem]
        expected = [first[xy] for xy in zip(own.x, own.y, strict=True)]
        assert most is not None or len(own) == len(corners)
        np.testing.assert_allclose(own.risk, expected, rtol=1e-6)
        assert (attention.loc[own.index, ["slide", "x", "y"]] == own[["slide", "x", "y"]]).all(axis=None)
        tiles = json.loads((folder / f"{slide.stem}.geojson").read_text())["features"]
        measured = [tile["properties"]["measurements"]["risk"] for tile in tiles]
        np.testing.assert_allclose(measured, expected, rtol=1e-6)
        captions = {f"Patches of {slide.stem}", f"Attention of the tokens to the patches of {slide.stem}"}
        assert captions <= set(page.captions)
    assert len(scales) == 2 and scales[0] is scales[1]  # colours mean the same on both


def test_models_without_an_adapter_have_no_attention(explain, monkeypatch):
    monkeypatch.setattr(patients, "ModalTune", type(None))
    folder, _ = explain()
    assert check_page(folder / "index.html").texts["h2"] == ["What moves the risk"]
    assert not list(folder.glob("*attention*"))
    assert list(pd.read_csv(folder / "patches.csv")) == ["slide", "x", "y", "size", "risk"]


def test_a_second_call_explains_only_who_is_missing(run, report):
    before = {p: p.stat().st_mtime_ns for p in report.glob("patients/*/summary.json")}
    main([str(run), "--device", "cpu", "--limit", "4"])
    after = {p: p.stat().st_mtime_ns for p in report.glob("patients/*/summary.json")}
    assert len(after) == 4
    assert before.items() <= after.items()
    main([str(run), "--device", "cpu", "--limit", "1", "--steps", "10"])
    changed = {p: p.stat().st_mtime_ns for p in report.glob("patients/*/summary.json")}
    assert sum(changed[p] != after[p] for p in after) == 1


def test_what_is_asked_wrongly_is_named(run, capsys):
    with pytest.raises(SystemExit):
        main([str(run), "--device", "cpu", "--patients", "TCGA-NOBODY"])
    assert "TCGA-NOBODY" in capsys.readouterr().err
    with pytest.raises(ValueError, match="class:K"):
        main([str(run), "--device", "cpu", "--targets", "clas"])
    with pytest.raises(FileNotFoundError, match="seed_7"):
        main([str(run), "--device", "cpu", "--job", "seed_7"])


def test_reports_of_other_weights_are_not_taken_for_these(run, report, tmp_path, caplog):
    """Two runs have the same patients and the same names of jobs."""
    copy, output = tmp_path / "run", tmp_path / "report"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "report")
    shutil.copytree(report, output)
    words = [str(copy), "--device", "cpu", "--limit", "3", "--output", str(output)]
    with caplog.at_level(logging.INFO):
        main(words)
    assert "patients are explained already" in caplog.text
    weights = copy / "seed_0" / "best_model_weights.pt"
    content = torch.load(weights)
    content["model"]["final_project.bias"] += 1
    torch.save(content, weights)
    with pytest.raises(FileError, match=r"best_model_weights.pt is not that of .*weights and probes"):
        main(words)
    (copy / "seed_0" / "fitted_by.json").unlink()
    before = {path: path.read_bytes() for path in output.rglob("*.json")}
    with pytest.raises(
        FileError, match=r"explains a patient by other weights of seed_0.*name another --output"
    ):
        main(words)
    assert {path: path.read_bytes() for path in output.rglob("*.json")} == before
    (tmp_path / "file").write_text("older")
    with pytest.raises(OSError, match="nothing can be written to the folder"):
        main([*words[:-1], str(tmp_path / "file")])


def test_data_that_are_not_those_of_the_run_are_said(cohort, run, tmp_path, caplog):
    copy, genes = tmp_path / "run", tmp_path / "genes.csv"
    shutil.copytree(run, copy)
    LoadedRun.open(copy, torch.device("cpu"))
    assert "other data" not in caplog.text
    table = pd.read_csv(cohort.genes, index_col=0)
    (table + 1).to_csv(genes)
    config = copy / "config.json"
    config.write_text(config.read_text().replace(str(cohort.genes), str(genes)))
    LoadedRun.open(copy, torch.device("cpu"))
    assert "was made from other data than there is now" in caplog.text
    assert str(genes) in caplog.text

"""The command on a small run: files, resuming, and what they hold."""

import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
from data_utils.features.store import read_coords
from tests.small_cohort import make_small_cohort
from tests.small_runs import quick_evaluation
from utils.explain.loaded_run import LoadedRun
from utils.explain_modaltune import main


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


class Links(HTMLParser):
    """What a page loads and links to."""

    def __init__(self):
        super().__init__()
        self.loaded, self.links = [], []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.loaded += [named["src"]] if "src" in named else []
        (self.loaded if tag == "link" else self.links).extend([named["href"]] if "href" in named else [])


def test_targets_are_what_the_probes_of_the_run_predict(run):
    loaded = LoadedRun.open(run, torch.device("cpu"))
    predictions = (
        pd.read_csv(run / "seed_0/predictions/test.csv").query("task == 'General'").set_index("case_id")
    )
    targets = {t.name: t for t in loaded.targets(["class", "probability:1", "risk"])}
    for case in (loaded.datasets["test"][k] for k in range(4)):
        with torch.no_grad():
            output = loaded.model(case)[0]
        row = predictions.loc[case.case_id]
        assert float(targets["probability_1"](output)) == pytest.approx(row.probability_1, abs=1e-4)
        assert torch.sigmoid(targets["class_1"](output)).item() == pytest.approx(row.probability_1, abs=1e-4)
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
        links = Links()
        links.feed(page.read_text(encoding="utf-8"))
        assert links.loaded and all(source.startswith("data:image/png;base64,") for source in links.loaded)
        assert all((page.parent / link).is_file() for link in links.links)


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

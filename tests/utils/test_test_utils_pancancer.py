"""Pan-cancer evaluation: each site equals its own evaluation, bad sites do not harm the others."""

import math

import numpy as np
import pandas as pd
import pytest
from lifelines.utils import concordance_index

from tests.utils.evaluation.evaluation_data import make_embeddings
from tests.utils.evaluation.test_zero_shot import make_candidates
from utils import test_utils_modaltune
from utils.evaluation import bootstrap
from utils.evaluation.embeddings import Embeddings
from utils.evaluation.probes import fit_survival
from utils.evaluation.results import COLUMNS, OVERALL, aggregate, write_results
from utils.test_utils_modaltune import CohortEvaluator
from utils.test_utils_pancancer import PanCancerEvaluator, Site

SITES = [Site("BRCA", 2), Site("RCC", 3, ["papillary", "clear cell", "chromophobe"])]
TASKS = ("General", "Survival")
PROJECTS = {"BRCA": ["TCGA-BRCA"], "RCC": ["TCGA-KIRC", "TCGA-KIRP"]}


def join(*parts: Embeddings) -> Embeddings:
    content = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("vectors", "labels", "durations", "events", "complete")
    }
    lists = {
        name: [item for part in parts for item in getattr(part, name)]
        for name in ("case_ids", "sites", "projects")
    }
    return Embeddings(**content, **lists)


def of_site(site: Site, n: int, seed: int, split: str, **changes) -> Embeddings:
    projects = [PROJECTS[site.name][i % len(PROJECTS[site.name])] for i in range(n)]
    cases = make_embeddings(
        n,
        tasks=2,
        classes=site.num_classes,
        seed=seed,
        prefix=f"{site.name}-{split}",
        sites=[site.name] * n,
        projects=projects,
        **changes,
    )
    vectors = cases.vectors.copy()
    vectors[:, :, -1] += 6.0 * (site.name == "RCC")  # sites differ
    return Embeddings(**{**vars(cases), "vectors": vectors})


def make_splits(changes=None) -> dict[str, Embeddings]:
    """``changes[site, split]`` change the embeddings of a site."""
    sizes = {"train": 50, "val": 21, "test": 30}
    changes = changes or {}
    return {
        split: join(
            *(
                of_site(site, n, 10 * i + k, split, **changes.get((site.name, split), {}))
                for k, site in enumerate(SITES)
            )
        )
        for i, (split, n) in enumerate(sizes.items())
    }


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(test_utils_modaltune, "draw", lambda *args: None)
    monkeypatch.setattr(PanCancerEvaluator, "_draw", lambda *args: None)


def value_of(frame, **where) -> float:
    for name, wanted in where.items():
        frame = frame[frame[name] == wanted]
    return float(frame["value"].item())


def only(cases: Embeddings, site: str) -> Embeddings:
    return cases.select(np.array(cases.sites) == site)


def test_every_site_equals_its_own_evaluation(tmp_path, no_figures):
    splits = make_splits()
    frame = PanCancerEvaluator(SITES, TASKS).report(splits, tmp_path / "pan", 0)
    for site in SITES:
        alone = CohortEvaluator(site.num_classes, TASKS).report(
            {split: only(cases, site.name) for split, cases in splits.items()}, tmp_path / site.name, 0
        )
        own = frame[(frame.site == site.name) & (frame.metric != "pooled_concordance_index")]
        pd.testing.assert_frame_equal(own[list(COLUMNS)].reset_index(drop=True), alone)


def test_means_over_sites(tmp_path, no_figures):
    frame = PanCancerEvaluator(SITES, TASKS).report(make_splits(), tmp_path, 0)
    where = {"task": "General", "split": "test", "metric": "balanced_accuracy"}
    values = [value_of(frame, site=site.name, **where) for site in SITES]
    assert value_of(frame, site=OVERALL, **where) == pytest.approx(sum(values) / 2)


@pytest.mark.parametrize("stratified", [False, True])
def test_the_common_cox_model_is_scored_per_site_and_on_all(tmp_path, no_figures, stratified):
    splits = make_splits()
    frame = PanCancerEvaluator(SITES, TASKS, stratified).report(splits, tmp_path, 0)
    train, test = splits["train"], splits["test"]
    model = fit_survival(train, 1, train.projects if stratified else None).model
    beta = model.params_.to_numpy()
    for site, part in {"BRCA": only(test, "BRCA"), "RCC": only(test, "RCC"), OVERALL: test}.items():
        expected = concordance_index(part.durations, -(part.task(1).astype(float) @ beta), part.events)
        where = {"task": "Survival", "split": "test", "metric": "pooled_concordance_index"}
        assert value_of(frame, site=site, **where) == pytest.approx(expected)


def test_the_cancer_site_is_told(tmp_path, no_figures):
    frame = PanCancerEvaluator(SITES, TASKS).report(make_splits(), tmp_path, 0)
    where = {"task": "General", "split": "test", "site": OVERALL}
    assert value_of(frame, metric="site_accuracy", **where) > 0.9
    shuffled = make_splits()
    rng = np.random.default_rng(0)
    shuffled = {
        split: Embeddings(**{**vars(cases), "vectors": cases.vectors[rng.permutation(len(cases))]})
        for split, cases in shuffled.items()
    }
    frame = PanCancerEvaluator(SITES, TASKS).report(shuffled, tmp_path, 0)
    assert value_of(frame, metric="site_accuracy", **where) < 0.7


def test_validation_selects_by_the_mean_over_sites():
    splits = make_splits()
    evaluator = PanCancerEvaluator(SITES, TASKS)
    metrics = evaluator.validate(splits["train"], splits["val"])
    assert evaluator.key == "val_balanced_accuracy/General"
    alone = {
        site.name: CohortEvaluator(site.num_classes, TASKS).validate(
            only(splits["train"], site.name), only(splits["val"], site.name)
        )
        for site in SITES
    }
    for name in ("val_balanced_accuracy/General", "val_concordance_index/Survival"):
        assert metrics[name] == pytest.approx(np.mean([found[name] for found in alone.values()]))
    for site in alone:
        assert metrics[f"val_site_balanced_accuracy/{site}"] == alone[site]["val_balanced_accuracy/General"]
    assert evaluator.score(metrics) == (
        metrics["val_balanced_accuracy/General"],
        metrics["val_concordance_index/General"],
    )


NOBODY = "nobody"


@pytest.mark.parametrize(
    ("changes", "metric", "reason"),
    [
        ({("BRCA", "test"): NOBODY}, "balanced_accuracy", "no case of known class to score"),
        ({("BRCA", "test"): NOBODY}, "concordance_index", "no case of known survival to score"),
        ({("BRCA", "train"): NOBODY}, "balanced_accuracy", "no case of known class among"),
        ({("BRCA", "train"): {"labels": [1] * 50}}, "balanced_accuracy", "only class 1 among the training"),
        ({("BRCA", "train"): {"events": [0] * 50}}, "concordance_index", "no death among the training"),
    ],
)
def test_a_site_that_is_not_evaluable_is_reported_and_stops_nobody(
    tmp_path, no_figures, changes, metric, reason
):
    splits = make_splits({key: value for key, value in changes.items() if value != NOBODY})
    for (site, split), value in changes.items():
        if value == NOBODY:
            splits[split] = splits[split].select(np.array(splits[split].sites) != site)
    evaluator = PanCancerEvaluator(SITES, TASKS)
    evaluator.validate(splits["train"], splits["val"])
    frame = evaluator.report(splits, tmp_path, 0)
    where = {"task": "General", "split": "test", "metric": metric}
    row = frame[(frame.site == "BRCA") & (frame.task == "General") & (frame.split == "test")]
    row = row[row.metric == metric].iloc[0]
    assert math.isnan(row["value"]) and reason in row["reason"]
    other = value_of(frame, site="RCC", **where)
    assert not math.isnan(other)
    overall = frame[(frame.site == OVERALL) & (frame.task == "General") & (frame.split == "test")]
    overall = overall[overall.metric == metric].iloc[0]
    assert overall["value"] == other
    assert overall["reason"] == "mean of 1 sites, not evaluable: BRCA"


def test_zero_shot_per_site(tmp_path, no_figures):
    candidates = {"BRCA": make_candidates((1, 2)), "RCC": make_candidates((1, 1, 2), seed=1)}
    splits = make_splits()
    frame = PanCancerEvaluator(SITES, TASKS).report(splits, tmp_path, 0, candidates)
    for site in candidates:
        result = candidates[site].subtype(only(splits["test"], site), 0)
        where = {"site": site, "task": "General", "split": "test"}
        found = value_of(frame, metric="zero_shot_balanced_accuracy", **where)
        assert found == pytest.approx(result.balanced_accuracy)
        risk = candidates[site].survival(only(splits["test"], site), 0)
        found = value_of(frame, metric="zero_shot_concordance_index", **where)
        assert found == pytest.approx(risk.concordance_index)
    without = PanCancerEvaluator(SITES, TASKS).report(splits, tmp_path, 0, {"BRCA": candidates["BRCA"]})
    zero_shot = without[without.metric.str.startswith("zero_shot") & (without.site != OVERALL)]
    assert set(zero_shot.site) == {"BRCA"}


def test_the_table_has_sites_as_columns(tmp_path, no_figures):
    frames = [PanCancerEvaluator(SITES, TASKS).report(make_splits(), tmp_path, seed) for seed in (0, 1)]
    table = write_results(frames, tmp_path, {"model": "test"})
    pd.testing.assert_frame_equal(table, aggregate(frames))
    text = (tmp_path / "results.md").read_text()
    head = "## Task token General, test patients\n\n| | BRCA | RCC | overall |\n"
    assert head in text
    section = text.split(head)[1].split("##")[0]
    line = next(row for row in section.splitlines() if row.startswith("| Balanced accuracy |"))
    for cell, site in zip(line.split("|")[2:5], ["BRCA", "RCC", OVERALL], strict=True):
        where = {"site": site, "task": "General", "split": "test", "metric": "balanced_accuracy"}
        assert cell.strip().startswith(f"{value_of(table, **where):.3f}")
    assert "| Concordance index, pooled Cox model |" in section
    long = pd.read_csv(tmp_path / "results.csv", keep_default_na=False)
    assert set(long.site) == {"BRCA", "RCC", OVERALL}


def test_files_and_figures(tmp_path):
    PanCancerEvaluator(SITES, TASKS).report(make_splits(), tmp_path, 0)
    for site in SITES:
        folder = tmp_path / "sites" / site.name
        assert (folder / "predictions" / "test.csv").is_file()
        assert (folder / "figures" / "general_kaplan_meier.png").is_file()
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "general_map.png",
        "survival_map.png",
    ]


def test_patients_of_other_sites_are_named():
    splits = make_splits()
    with pytest.raises(ValueError, match=r"sites \['RCC'\].*RCC-train-0"):
        PanCancerEvaluator(SITES[:1], TASKS).validate(splits["train"], splits["val"])


def test_sites_must_differ():
    for sites in ([], [SITES[0], SITES[0]]):
        with pytest.raises(ValueError, match="different sites"):
            PanCancerEvaluator(sites, TASKS)

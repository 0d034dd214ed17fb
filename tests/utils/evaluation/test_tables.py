"""Tables over runs, from run folders as they lie on disk."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from utils.evaluation import bootstrap, tables
from utils.evaluation.comparisons import delong, paired_bootstrap
from utils.evaluation.published import COHORTS, PUBLISHED
from utils.files import FileError


def write_run(root, model, cohort, accuracies, patients=40, seed=0, heads=False, **data):
    """A finished run whose predictions are right for the given share of patients, one share a seed."""
    root.mkdir(parents=True)
    content = {"model": {"mil_name": model}, "arguments": {"data": {"onco": cohort, "sites": [], **data}}}
    (root / "config.json").write_text(json.dumps(content))
    labels, rows = np.arange(patients) % 2, []
    for number, share in enumerate(accuracies):
        rng = np.random.default_rng(seed + number)
        wrong = rng.permutation(patients) >= share * patients
        predictions = np.where(wrong, 1 - labels, labels)
        folder = root / f"seed_{number}" / "predictions"
        folder.mkdir(parents=True)
        table = pd.DataFrame({"task": "General", "case_id": [f"c{i:03}" for i in range(patients)]})
        table = table.assign(
            label=labels, prediction=predictions, event=1, duration=1.0 + np.arange(patients)
        )
        # In the order of the classes; another task has classes of its own.
        table[["probability Luminal", "probability Basal", "probability high"]] = np.nan
        table["probability Basal"] = np.clip(
            0.5 + 0.3 * (predictions - 0.5) + 0.2 * rng.normal(size=patients), 0, 1
        )
        table["probability Luminal"] = 1 - table["probability Basal"]
        table["risk"] = -table.duration + rng.normal(size=patients)
        if heads:  # as good as the probes, with the classes exchanged: worse than chance
            table["head_prediction"], table["head_risk"] = 1 - predictions, -table.risk
            table["head_probability Luminal"] = table["probability Basal"]
            table["head_probability Basal"] = table["probability Luminal"]
        grades = pd.DataFrame(
            {"task": "Grade", "case_id": table.case_id, "label": 0, "probability high": 0.5}
        )
        pd.concat([table, grades]).to_csv(folder / "test.csv", index=False)
        value = np.mean([(predictions[labels == k] == k).mean() for k in (0, 1)])
        area = roc_auc_score(labels, table["probability Basal"])
        found = {"balanced_accuracy": value, "auc": area, "concordance_index": 0.7}
        if heads:
            found |= {f"head_{metric}": 1 - known for metric, known in found.items()}
        for metric, number_of in found.items():
            base = {
                "site": "",
                "task": "General",
                "split": "test",
                "metric": metric,
                "value": number_of,
                "n": patients,
            }
            rows += [{"run": f"seed_{number}", **base}, {"run": "mean", **base}]
    pd.DataFrame(rows).to_csv(root / "results.csv", index=False)
    return root


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "modaltune" / "BRCA", "longnetvit_gene_adapter", "BRCA", [0.95, 0.9, 0.95])
    write_run(tmp_path / "modaltune" / "RCC", "longnetvit_gene_adapter", "RCC", [0.9])
    write_run(tmp_path / "abmil", "abmil", "BRCA", [0.6, 0.55, 0.6], seed=9)
    write_run(tmp_path / "snn", "snn", "BRCA", [0.9, 0.95, 0.9], seed=5)
    return tmp_path


def test_cells_ranks_published_values_and_what_is_missing(runs, capsys):
    assert tables.main([str(runs / "modaltune"), str(runs / "abmil"), f"mine={runs / 'snn'}"]) == 0
    page = capsys.readouterr().out
    subtype = page.split("## Area under")[0]
    assert "| | BRCA | RCC |" in subtype and "| ModalTune | **0.9" in subtype and "(0.899)" in subtype
    assert "| mine | <u>0.9" in subtype and "| test patients | 40 | 40 |" in subtype
    assert "* (0.853) |" in subtype  # ABMIL is worse, beyond chance
    assert "Missing runs (-): ABMIL on RCC, mine on RCC." in subtype
    assert " ± " in subtype and "0.900 (0.959)" in subtype  # one seed has no deviation


def test_tables_of_other_runs_are_not_written_over(runs, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--output", str(out)]
    tables.main([str(runs / "abmil"), str(runs / "snn"), *words])
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    tables.main([str(runs / "abmil"), str(runs / "snn"), *words])  # the same again
    (tmp_path / "file").write_text("older")
    for refused, reason in (
        ([str(runs / "abmil"), *words], r"comparison\.md is of .*abmil.*snn.*remove it, or name another"),
        ([str(runs / "abmil"), "--output", str(runs / "abmil")], "abmil is the folder of a run"),
        ([str(runs / "abmil"), "--output", str(tmp_path / "file")], "nothing can be written to the folder"),
    ):
        with pytest.raises(SystemExit):
            tables.main(refused)
        assert re.search(reason, capsys.readouterr().err)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_means_and_tests_are_those_of_the_runs(runs, tmp_path):
    out = tmp_path / "out"
    tables.main([str(runs), "--output", str(out)])
    table = pd.read_csv(out / "balanced_accuracy.csv").set_index(["method", "cohort"])
    values = predictions(runs / "abmil")
    by_hand = [(t.prediction == t.label).groupby(t.label).mean().mean() for t in values]
    row = table.loc["ABMIL", "BRCA"]
    assert row["mean"] == pytest.approx(np.mean(by_hand)) and row["std"] == pytest.approx(
        np.std(by_hand, ddof=1)
    )
    assert row["difference"] == pytest.approx(row["mean"] - table.loc["ModalTune", "BRCA"]["mean"])
    assert row["p"] < 0.05 < table.loc["S-MLP (genes)", "BRCA"]["p"]
    latex = (out / "balanced_accuracy.tex").read_text()
    assert r"\toprule" in latex and r"\textbf{" in latex and r"$\pm$" in latex
    assert (out / "comparison.md").read_text().startswith("## Balanced accuracy")


def predictions(folder):
    tables = [pd.read_csv(path) for path in sorted(folder.rglob("test.csv"))]
    return [table[table.task == "General"] for table in tables]


def test_areas_are_compared_by_delong(runs, tmp_path):
    out = tmp_path / "out"
    tables.main([str(runs / "modaltune"), str(runs / "abmil"), "--output", str(out)])
    row = pd.read_csv(out / "auc.csv").set_index(["method", "cohort"]).loc["ABMIL", "BRCA"]
    ours, theirs = (predictions(runs / name) for name in ("abmil", "modaltune/BRCA"))
    shares = [
        [t[["probability Luminal", "probability Basal"]].to_numpy() for t in part] for part in (ours, theirs)
    ]
    expected = delong(ours[0].label.to_numpy(), *shares)
    assert (row.difference, row.p) == pytest.approx((expected.difference, expected.p))
    assert (row.ci_low, row.ci_high) == pytest.approx((expected.ci_low, expected.ci_high))
    assert row["mean"] == pytest.approx(
        np.mean([roc_auc_score(t.label, t["probability Basal"]) for t in ours])
    )
    page = (out / "comparison.md").read_text()
    assert "DeLong's test" in page.split("## Area under")[1].split("## Concordance")[0]
    assert page.count("paired bootstrap") >= 1 and math.isnan(row.published)


def test_heads_are_compared_where_there_are_any(runs, tmp_path, capsys):
    write_run(runs / "head", "survpath", "BRCA", [0.9, 0.9], seed=3, heads=True)
    out = tmp_path / "out"
    tables.main([str(runs / "modaltune"), str(runs / "head"), "--heads", "--output", str(out)])
    assert "Trained heads; by probes, for want of a head: ModalTune." in capsys.readouterr().out
    own, other = predictions(runs / "head"), predictions(runs / "modaltune" / "BRCA")
    expected = paired_bootstrap(
        bootstrap.balanced_accuracy,
        [(t.label.to_numpy(), t.head_prediction.to_numpy()) for t in own],
        [(t.label.to_numpy(), t.prediction.to_numpy()) for t in other],
    )
    row = pd.read_csv(out / "balanced_accuracy.csv").set_index(["method", "cohort"]).loc["SurvPath", "BRCA"]
    assert row.difference == pytest.approx(expected.difference) and row.difference < -0.5
    assert row["mean"] == pytest.approx(0.1) and row.source == "head"
    risks = pd.read_csv(out / "concordance_index.csv").set_index(["method", "cohort"])
    expected = paired_bootstrap(
        bootstrap.concordance,
        [tuple(t[c].to_numpy() for c in ("duration", "event", "head_risk")) for t in own],
        [tuple(t[c].to_numpy() for c in ("duration", "event", "risk")) for t in other],
    )
    assert risks.loc["SurvPath", "BRCA"].difference == pytest.approx(expected.difference)


def test_forest_plots_show_every_difference(runs, tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: figures.append(self) or save(self, *a, **k))
    out = tmp_path / "out"
    tables.main([str(runs), "--output", str(out)])
    assert sorted(p.name for p in out.glob("*.png")) == sorted(f"{m}_forest.png" for m in tables.METRICS)
    table = pd.read_csv(out / "balanced_accuracy.csv").dropna(subset=["ci_low"])
    (axes,) = figures[0].axes
    assert axes.get_title(loc="left") == "BRCA" or axes.get_title() == "BRCA"
    points, bars = axes.collections[1], axes.collections[0]
    np.testing.assert_allclose(points.get_offsets()[:, 0], table.difference)
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, table[["ci_low", "ci_high"]])
    assert [t.get_text() for t in axes.get_yticklabels()] == table.method.tolist()
    tables.main([str(runs / "snn"), "--output", str(tmp_path / "alone")])
    assert not list((tmp_path / "alone").glob("*.png"))  # nothing to compare with


def test_other_patients_are_not_compared(runs, caplog):
    write_run(runs / "more" / "x", "mlp", "BRCA", [0.8], patients=30)
    with caplog.at_level("WARNING"):
        tables.main([str(runs / "modaltune"), str(runs / "more")])
    assert "MLP (genes) on BRCA: not the test patients of ModalTune" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no results.csv here or below"),
        (["abmil", "A=abmil", "A=snn"], "are both A on BRCA; name them apart"),
        (["abmil", "--reference", "B"], r"--reference B: there are ['ABMIL']"),
    ],
)
def test_what_cannot_be_a_table(runs, words, message, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    with pytest.raises(SystemExit):
        tables.main(words)
    assert message in capsys.readouterr().err


def test_published_tables_are_whole():
    for table in PUBLISHED.values():
        assert len(table) == 14 and all(tuple(row) == COHORTS for row in table.values())
        assert all(0.5 < value <= 1 for row in table.values() for value in row.values())


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("results.csv", lambda text: text.replace(",", ";"), r"results\.csv has semicolons"),
        (
            "results.csv",
            lambda text: "".join(text.splitlines(True)[:-1]),
            r"results\.csv is cut off.*no mean",
        ),
        (
            "results.csv",
            lambda text: text[: text.rindex("mean") + 2],
            r"results\.csv .*(cut off|cells in line)",
        ),
        ("results.csv", lambda text: "", r"results\.csv is empty"),
        ("results.csv", lambda text: text.replace("metric", "measure", 1), r"results\.csv lacks the columns"),
        ("results.csv", lambda text: text.replace("0.7", "zero", 1), r"results\.csv has no number in .*zero"),
        ("test.csv", lambda text: "<html>", r"test\.csv .*(lacks the columns|has no rows)"),
        ("test.csv", lambda text: text[:-20], r"test\.csv has \d+ cells in line"),
    ],
)
def test_damaged_results_are_named(runs, capsys, name, change, words):
    run = runs / ("modaltune/RCC" if name == "results.csv" else "abmil")  # RCC has one seed
    path = next(run.rglob(name))
    path.write_text(change(path.read_text()))
    with pytest.raises((SystemExit, FileError)) as refused:
        tables.main([str(runs)])
    said = capsys.readouterr().err if refused.type is SystemExit else str(refused.value)
    assert re.search(words, said), said

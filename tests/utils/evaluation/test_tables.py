"""Tables over runs, from run folders as they lie on disk."""

import json

import numpy as np
import pandas as pd
import pytest

from utils.evaluation import tables
from utils.evaluation.published import COHORTS, PUBLISHED


def write_run(root, model, cohort, accuracies, patients=40, seed=0, **data):
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
        table["risk"] = -table.duration + rng.normal(size=patients)
        table.to_csv(folder / "test.csv", index=False)
        value = np.mean([(predictions[labels == k] == k).mean() for k in (0, 1)])
        for metric, number_of in (("balanced_accuracy", value), ("concordance_index", 0.7)):
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
    subtype = page.split("## Concordance index")[0]
    assert "| | BRCA | RCC |" in subtype and "| ModalTune | **0.9" in subtype and "(0.899)" in subtype
    assert "| mine | <u>0.9" in subtype and "| test patients | 40 | 40 |" in subtype
    assert "* (0.853) |" in subtype  # ABMIL is worse, beyond chance
    assert "Missing runs (-): ABMIL on RCC, mine on RCC." in subtype
    assert " ± " in subtype and "0.900 (0.959)" in subtype  # one seed has no deviation


def test_means_and_tests_are_those_of_the_runs(runs, tmp_path):
    out = tmp_path / "out"
    tables.main([str(runs), "--output", str(out)])
    table = pd.read_csv(out / "balanced_accuracy.csv").set_index(["method", "cohort"])
    values = [pd.read_csv(runs / "abmil" / f"seed_{s}" / "predictions" / "test.csv") for s in range(3)]
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

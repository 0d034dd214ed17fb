import numpy as np
import pandas as pd
import pytest

from utils.evaluation.results import COLUMNS, NOT_EVALUABLE, aggregate, write_results

NAN = float("nan")


def table(seed, rows):
    """A result table from rows (task, split, metric, value, low, high, n, events, reason)."""
    return pd.DataFrame([(seed, *row) for row in rows], columns=list(COLUMNS))


def run(seed, balanced, concordance, reason=""):
    return table(
        seed,
        [
            ("General", "train", "balanced_accuracy", 0.9, 0.8, 1.0, 40, NAN, ""),
            ("General", "test", "balanced_accuracy", balanced, balanced - 0.1, balanced + 0.1, 10, NAN, ""),
            ("General", "test", "concordance_index", concordance, concordance - 0.2, 1.0, 12, 7, reason),
            ("Survival", "test", "balanced_accuracy", 0.5, 0.4, 0.6, 10, NAN, ""),
        ],
    )


def pick(frame, **values):
    for name, value in values.items():
        frame = frame[frame[name] == value]
    (row,) = frame.to_dict("records")
    return row


def test_aggregate_equals_the_formulas():
    values = [0.6, 0.7, 0.95]
    result = aggregate([run(s, v, 0.7) for s, v in enumerate(values)])
    row = pick(result, task="General", split="test", metric="balanced_accuracy")
    mean = sum(values) / 3
    assert row["value"] == pytest.approx(mean)
    assert row["std"] == pytest.approx((sum((v - mean) ** 2 for v in values) / 2) ** 0.5)
    assert np.isnan([row["ci_low"], row["ci_high"]]).all()  # intervals of several runs are no interval
    assert (row["runs"], row["n"], row["reason"]) == (3, 10, "")
    assert list(result["task"]) == ["General", "General", "General", "Survival"]  # order of the tables
    assert pick(result, metric="concordance_index")["events"] == 7


def test_one_run_has_no_spread():
    row = pick(aggregate([run(0, 0.6, 0.7)]), metric="concordance_index")
    assert row["value"] == 0.7
    assert np.isnan(row["std"]) and row["ci_low"] < 0.7 < row["ci_high"]


def test_runs_that_are_not_evaluable_are_left_out_and_said():
    result = aggregate([run(0, 0.6, 0.5), run(1, 0.6, NAN, "no death"), run(2, 0.6, 0.7)])
    row = pick(result, metric="concordance_index")
    assert row["value"] == pytest.approx(0.6)
    assert row["runs"] == 2
    assert row["reason"] == "1 of 3 runs: no death"
    row = pick(
        aggregate([run(0, 0.6, NAN, "no death"), run(1, 0.6, NAN, "no pair")]), metric="concordance_index"
    )
    assert np.isnan(row["value"])
    assert row["reason"] == "no death; no pair"


def test_tables_that_were_written_and_read_again_give_the_same(tmp_path):
    frames = [run(0, 0.6, 0.5), run(1, 0.7, NAN, "no death")]
    again = []
    for i, frame in enumerate(frames):
        frame.to_csv(tmp_path / f"{i}.csv", index=False)
        again.append(pd.read_csv(tmp_path / f"{i}.csv"))
    pd.testing.assert_frame_equal(aggregate(frames), aggregate(again))


def test_faulty_input_is_refused():
    with pytest.raises(ValueError, match="no results"):
        aggregate([])
    with pytest.raises(ValueError, match=r"lacks the columns \['value', 'reason'\]"):
        aggregate([run(0, 0.5, 0.5), run(0, 0.5, 0.5).drop(columns=["value", "reason"])])


def test_files(tmp_path):
    frames = [run(3, 0.6, 0.5), run(4, 0.7, NAN, "no death among the scored cases")]
    returned = write_results(frames, tmp_path / "run", {"Protocol": "published", "Seeds": "3, 4"})
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["results.csv", "results.md"]

    long = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(long["run"]) == {"seed 3", "seed 4", "mean"}
    row = pick(long, run="seed 4", task="General", split="test", metric="balanced_accuracy")
    assert (row["value"], row["ci_low"], row["n"]) == pytest.approx((0.7, 0.6, 10))
    row = pick(long, run="mean", task="General", split="test", metric="balanced_accuracy")
    assert row["value"] == pytest.approx(0.65)
    assert row["std"] == pytest.approx(0.0707, abs=1e-4)
    assert len(long) == 4 * 3
    assert len(returned) == 4

    text = (tmp_path / "run" / "results.md").read_text(encoding="utf-8")
    assert text.endswith("## Made from\n\n- **Protocol**: published\n- **Seeds**: 3, 4\n")
    assert "## Task token General\n\n| | train | test |\n| --- | --- | --- |\n" in text
    expected = "| Balanced accuracy | 0.900 ± 0.000 | 0.650 ± 0.071 |"
    assert expected in text
    assert "| Concordance index |  | 0.500 [0.300, 1.000] [1] |" in text
    assert "[1] 1 of 2 runs: no death among the scored cases" in text
    assert "| Patients with a class | 40 | 10 |" in text
    assert "| Patients with survival |  | 12 |" in text
    assert "| Deaths |  | 7 |" in text


def test_nothing_evaluable_is_written_as_such(tmp_path):
    frame = table(0, [("General", "test", "auc", NAN, NAN, NAN, 0, NAN, "no case of known class to score")])
    write_results([frame], tmp_path, {})
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert f"| AUC | {NOT_EVALUABLE} [1] |" in text
    assert text.endswith("[1] no case of known class to score\n")


def test_details_stand_behind_what_people_look_for(tmp_path):
    rows = [
        ("General", "test", "balanced_accuracy", 0.7, 0.6, 0.8, 10, NAN, ""),
        ("General", "test", "ece", 0.1, 0.0, 0.2, 10, NAN, ""),
        ("General", "test", "concordance_ipcw", NAN, NAN, NAN, 12, 7, "no reason"),
        ("Survival", "test", "head_auc", 0.6, 0.5, 0.7, 10, NAN, ""),
    ]
    write_results([table(0, rows)], tmp_path, {})
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == ["## Task token General", "## Task token Survival", "## More of task token General"]
    more = text.split(titles[-1])[1]
    assert "| Expected calibration error (less is better) | 0.100 [0.000, 0.200] |" in more
    assert "| Concordance index, censoring-weighted | n/e [1] |" in more
    assert "Balanced" not in more and "Patients" not in more


def test_names_of_runs(tmp_path):
    folds = [run(0, 0.6, 0.5), run(0, 0.7, 0.5)]
    write_results(folds, tmp_path, {})
    names = list(dict.fromkeys(pd.read_csv(tmp_path / "results.csv")["run"]))
    assert names == ["run 1 (seed 0)", "run 2 (seed 0)", "mean"]
    write_results(folds, tmp_path, {}, names=["fold 0", "fold 1"])
    assert list(dict.fromkeys(pd.read_csv(tmp_path / "results.csv")["run"])) == ["fold 0", "fold 1", "mean"]
    with pytest.raises(ValueError, match="1 names for 2 runs"):
        write_results(folds, tmp_path, {}, names=["fold 0"])

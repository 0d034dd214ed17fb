"""Patients of unknown class or survival, one by one and all together, from training to the doctor."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import train_modaltune
from tests.small_cohort import SmallCohort, make_small_cohort
from utils import doctor
from utils.tensor_files import read_tensors, write_tensors

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def small_cohort(tmp_path_factory: pytest.TempPathFactory) -> SmallCohort:
    return make_small_cohort(tmp_path_factory.mktemp("cohort"))


def unlabel(cohort: SmallCohort, root: Path, what: str, everyone: bool) -> list[str]:
    """Flags of copies of the split files and texts in which labels are missing."""
    texts = read_tensors(cohort.texts, "texts")
    row = {"class": 1, "survival": 3}
    flags = []
    for split in ("train", "val", "test"):
        content = json.loads(cohort.split(split).read_text())
        for number, entry in enumerate(content["data"]):
            if everyone or int(entry["case_id"].split("-")[1]) % 3 == 0:
                if what in ("class", "both"):
                    entry["primary_class"], entry["primary_diagnosis"] = (None, -1)[number % 2], None
                    texts[entry["case_id"]][row["class"]] = torch.nan
                if what in ("survival", "both"):
                    entry["durations"] = entry["vital_status"] = None
                    texts[entry["case_id"]][row["survival"]] = torch.nan
        if everyone and what in ("class", "both"):
            for entry in content["data"]:
                entry["primary_class"] = -1
        path = root / f"{split}.json"
        path.write_text(json.dumps(content))
        flags.append(f"--{split}_json={path}")
    write_tensors(root / "texts.pt", texts)
    return [*flags, f"--text_location={root / 'texts.pt'}"]


@pytest.mark.parametrize(
    ("what", "everyone", "protocol"),
    [
        ("survival", False, "published"),
        ("survival", True, "published"),
        ("class", True, "strict"),
        ("both", False, "strict"),
        ("both", True, "strict"),
    ],
)
def test_no_stage_stops(
    small_cohort: SmallCohort,
    tmp_path: Path,
    what: str,
    everyone: bool,
    protocol: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = small_cohort.flags(tmp_path / "run", protocol=protocol, num_epochs=1)
    flags += unlabel(
        small_cohort, tmp_path, what, everyone
    )  # of a flag that is given twice the last one counts
    doctor.main([*flags, "--feature_samples=0"])
    found = capsys.readouterr().out
    assert "the check stopped" not in found
    if what != "class":
        assert "have no survival time" in found
    train_modaltune.main(flags)
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    rows = table[(table.run == "mean") & (table.split == "train") & (table.task == "General")].set_index(
        "metric"
    )
    if everyone:
        metrics = {"class": "balanced_accuracy", "survival": "concordance_index"}
        for kind, metric in metrics.items():
            assert pd.isna(rows.value[metric]) == (what in (kind, "both"))
            assert bool(pd.isna(rows.reason[metric])) != (what in (kind, "both"))
    elif what == "survival":
        assert rows.n["concordance_index"] < rows.n["balanced_accuracy"]
    state = json.loads((tmp_path / "run" / "config.json").read_text())
    assert state["arguments"]["data"]["protocol"] == protocol


def test_texts_of_another_width_train_and_are_evaluated_again(
    small_cohort: SmallCohort, tmp_path: Path
) -> None:
    texts = {case: value[:, :7] for case, value in read_tensors(small_cohort.texts, "texts").items()}
    write_tensors(tmp_path / "texts.pt", texts)
    train_modaltune.main(
        small_cohort.flags(tmp_path / "run", text_location=tmp_path / "texts.pt", num_epochs=1)
    )
    again = {"text_location": None, "eval_only": True, "eval_weights": tmp_path / "run"}
    train_modaltune.main(small_cohort.flags(tmp_path / "again", **again))
    one, other = (pd.read_csv(tmp_path / name / "results.csv") for name in ("run", "again"))
    pd.testing.assert_series_equal(one.value, other.value)

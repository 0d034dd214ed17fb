"""The page "Your own cohort" is run as it stands, on forty generated patients of a hospital."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
from data_utils import make_dataset, make_textemb_conch
from tests.own_cohort import patient, patient_row
from tests.small_cohort import MODEL_CONFIG, write_slide
from utils import constants, doctor
from utils.prediction import __main__ as prediction

pytestmark = pytest.mark.usefixtures("quick_runs")
PAGE = constants.REPO_ROOT / "docs" / "own_cohort.md"
GENES = [f"G{number}" for number in range(10)]


def write_rna(path: Path, patients: list[str], seed: int) -> None:
    values = np.random.default_rng(seed).normal(5, 2, size=(len(patients), len(GENES)))
    pd.DataFrame(values, index=pd.Index(patients, name="patient"), columns=GENES).to_csv(path)


def hospital(root: Path, suffix: str) -> None:
    rows = [patient_row(number) for number in range(40)]
    rows[3]["OS"] = rows[5]["Subtype"] = None
    table = pd.DataFrame(rows)
    table.to_excel(root / "cohort.xlsx", index=False) if suffix == "xlsx" else table.to_csv(
        root / "cohort.csv", index=False
    )
    for number in range(40):
        write_slide(root / "features" / f"{patient(number)}_S1.h5", 6, number, 2.0 * (number % 2))
    write_rna(root / "rna.csv", [patient(number) for number in range(40)], 0)
    pathways = {"A": (0, 3, 5), "B": (1, 2), "C": (4, 6, 7, 8, 9)}
    member = {name: [int(i in genes) for i in range(len(GENES))] for name, genes in pathways.items()}
    pd.DataFrame(member, index=pd.Index(GENES, name="gene")).to_csv(root / "pathways.csv")
    new = [f"H-{number:04d}" for number in range(901, 906)]
    for number, name in enumerate(new):
        write_slide(root / "new_features" / f"{name}_S1.h5", 6, 100 + number)
    write_rna(root / "new_rna.csv", new, 1)
    pd.DataFrame({"patient": new, "slide": [f"{name}_S1" for name in new]}).to_csv(
        root / "new_patients.csv", index=False
    )
    (root / "model.json").write_text(json.dumps(MODEL_CONFIG))


def block(kind: str, number: int = 0) -> str:
    return re.findall(rf"```{kind}[^\n]*\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[number]


def commands(number: int) -> list[list[str]]:
    """The commands of a block of the page."""
    return [shlex.split(line) for line in block("bash", number).replace("\\\n", " ").strip().splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("COHORTS_ROOT", "SPLITS_ROOT", "TABLES_ROOT"):
        monkeypatch.setattr(constants, name, tmp_path / name.lower())
    return tmp_path


def run(found: list[list[str]], suffix: str) -> None:
    """Runs commands, the doctor before the training, and embeds the sentences that one of them lists."""
    small = ["--model_config", "model.json", "--random_backbone", "--device", "cpu"]
    entry: dict[str, tuple[Callable[[list[str]], object], list[str]]] = {
        "data_utils.make_dataset": (make_dataset.main, []),
        "data_utils.make_textemb_conch": (make_textemb_conch.main, []),
        "train_modaltune.py": (train_modaltune.main, [*small, "--num_epochs", "2"]),
        "utils.prediction": (prediction.main, ["--device", "cpu"]),
    }
    for words in found:
        name, given = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
        main, further = entry[name]
        if name == "train_modaltune.py":  # the doctor takes the same flags
            assert doctor.main([*given, *further]) == 0
        assert main([*(word.replace("cohort.xlsx", f"cohort.{suffix}") for word in given), *further]) in (
            None,
            0,
        ), name
        if "--list_sentences" in given:
            torch.manual_seed(0)
            sentences = json.loads(Path("sentences.json").read_text())
            torch.save({sentence: torch.randn(16) for sentence in sentences}, "vectors.pt")


@pytest.mark.parametrize("suffix", ["xlsx", "csv"])
def test_the_page_runs(suffix: str, folder: Path) -> None:
    hospital(folder, suffix)
    found = commands(0)
    assert len(found) == 5
    run(found, suffix)
    table = pd.read_csv("predictions.csv", dtype={"patient": str})
    assert table.patient.tolist() == [f"H-{number:04d}" for number in range(901, 906)]
    probabilities = table[["probability LumA", "probability LumB"]]
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert set(table["class"]) <= {"LumA", "LumB"}
    assert table.risk.notna().all()


def test_the_tasks_of_the_page_run(folder: Path) -> None:
    hospital(folder, "csv")
    (folder / "tasks.json").write_text(block("json"))
    run([*commands(0)[:1], *commands(1)], "csv")
    tokens = ["Diagnosis", "Survival", "Whole", "Grade", "Proliferation"]
    assert pd.read_csv("run_tasks/results.csv").task.unique().tolist() == tokens
    table = pd.read_csv("predictions_tasks.csv")
    assert set(table["Grade class"]) <= {"low", "middle", "high"}
    shares = table[[f"Grade probability {name}" for name in ("low", "middle", "high")]]
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert (
        table[["Proliferation value", "risk"]].notna().all(axis=None)
        and table["class"].isin(["LumA", "LumB"]).all()
    )

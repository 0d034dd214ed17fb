"""Clinical features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data_utils import make_clinical
from data_utils.tables.clinical import RawClinical, read_clinical_table
from data_utils.tables.gdc import split_paths
from utils.files import FileError


def split_row(case: str, age: float | None, stage: str | None, t: str | None = "T1") -> dict[str, object]:
    return {
        "case_id": case,
        "case_submitter_id": case.upper(),
        "project_id": "TCGA-BRCA",
        "primary_diagnosis": "lobular carcinoma",
        "durations": 12.5,
        "vital_status": 1,
        "age_at_index": age,
        "ajcc_pathologic_stage": stage,
        "ajcc_pathologic_t": t,
        "ajcc_pathologic_n": None,
        "ajcc_pathologic_m": "M0",
    }


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    splits = {
        "train": [split_row("a", 40, "Stage II"), split_row("b", None, "Stage I"), split_row("c", 80, None)],
        "val": [split_row("d", 100, "Stage IV", "T2")],
        "test": [split_row("e", float("nan"), "Stage II"), split_row("e", float("nan"), "Stage II")],
    }
    for split, path in split_paths("BRCA", folder=tmp_path).items():
        path.write_text(json.dumps({"data": splits[split]}))
    return ["--onco=brca", f"--splits_dir={tmp_path}", f"--output={tmp_path / 'clinical.pt'}"]


def load(folder: Path) -> tuple[dict[str, list[float]], dict]:
    tensors = torch.load(folder / "clinical.pt", weights_only=True)
    assert all(value.dtype == torch.float32 and value.shape == (5,) for value in tensors.values())
    codes = json.loads((folder / "clinical_codes.json").read_text())
    return {case: pytest.approx(value.tolist()) for case, value in tensors.items()}, codes


def test_a_split_file_is_not_written_over(tmp_path: Path, flags: list[str]) -> None:
    split = split_paths("BRCA", folder=tmp_path)["val"]
    content = split.read_bytes()
    with pytest.raises(FileError, match=r"val_brca.*is read by this command"):
        make_clinical.main([*flags[:2], f"--output={split}"])
    assert split.read_bytes() == content


def test_published(tmp_path: Path, flags: list[str], caplog: pytest.LogCaptureFixture) -> None:
    make_clinical.main(flags)
    features, codes = load(tmp_path)
    # Stages Nan, I, II, IV; median age of 40, 80 and 100.
    assert features == {
        "a": [0.4, 2, 0, 0, 0],
        "b": [0.8, 1, 0, 0, 0],
        "c": [0.8, 0, 0, 0, 0],
        "d": [1.0, 3, 1, 0, 0],
        "e": [0.8, 2, 0, 0, 0],
    }
    assert (codes["protocol"], codes["max_age"], codes["median_age"], codes["cases"]) == (
        "published",
        100,
        80,
        5,
    )
    assert codes["codes"]["ajcc_pathologic_t"] == {"T1": 0, "T2": 1}
    assert codes["codes"]["ajcc_pathologic_n"] == {"Nan": 0}
    assert "2 missing ages set to the median 80" in caplog.text
    assert "no case has ajcc_pathologic_n" in caplog.text


def test_strict_learns_from_training_cases(
    tmp_path: Path, flags: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    make_clinical.main([*flags, "--protocol=strict"])
    features, codes = load(tmp_path)
    # Stages I, II, unknown; T1, unknown; median of 40 and 80.
    assert features["d"] == [1.25, 2, 1, 0, 0]
    assert features["e"] == [0.75, 1, 0, 0, 0]
    assert (codes["protocol"], codes["max_age"], codes["cases"]) == ("strict", 80, 3)
    assert "ajcc_pathologic_t: ['T2'] get the code of unknown" in caplog.text


def test_raw_values_give_the_same_features(tmp_path: Path, flags: list[str]) -> None:
    for protocol, only in (("published", None), ("strict", {"a", "b", "c"})):
        make_clinical.main([*flags, f"--protocol={protocol}"])
        features, _ = load(tmp_path)
        raw = read_clinical_table(tmp_path / "clinical.csv")
        assert isinstance(raw, RawClinical)
        assert {case: row.tolist() for case, row in raw.encode(raw.fit(only)).items()} == features


def test_codes_of_another_cohort(tmp_path: Path, flags: list[str], caplog: pytest.LogCaptureFixture) -> None:
    make_clinical.main([*flags, "--protocol=strict"])
    codes = (tmp_path / "clinical_codes.json").rename(tmp_path / "theirs.json")
    for split, path in split_paths("BRCA", folder=tmp_path).items():
        case = split_row(f"new-{split}", 96, {"train": "Stage I", "val": "Stage IX"}.get(split))
        path.write_text(json.dumps({"data": [case]}))
    make_clinical.main([*flags, f"--codes={codes}"])
    features, used = load(tmp_path)
    assert features == {
        "new-train": [1.2, 0, 0, 0, 0],
        "new-val": [1.2, 2, 0, 0, 0],
        "new-test": [1.2, 2, 0, 0, 0],
    }
    assert used == json.loads(codes.read_text()) and used["protocol"] == "strict"
    assert "ajcc_pathologic_stage: ['Stage IX'] get the code of unknown (1 of 3 cases)" in caplog.text


def test_tensors_are_not_written_over_the_raw_values(tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(ValueError, match=r"out\.csv is the file of tensors"):
        make_clinical.main([*flags[:2], f"--output={tmp_path / 'out.csv'}"])


def test_unknown_protocol(flags: list[str]) -> None:
    with pytest.raises(SystemExit):
        make_clinical.main([*flags, "--protocol=loose"])

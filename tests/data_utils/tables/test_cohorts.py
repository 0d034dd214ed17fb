"""Cohort definitions: the shipped ones and every way a user's own can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_utils.tables.cohorts import load_cohort, read_cohort
from utils import constants

SITES = {
    "BRCA": "breast",
    "BLCA": "bladder urothelial",
    "COADREAD": "colorectal",
    "GBMLGG": "brain",
    "NSCLC": "lung",
    "RCC": "kidney",
    "STAD": "stomach",
    "UCEC": "uterus",
}
DIAGNOSES = [
    ("BRCA", "TCGA-BRCA", "Infiltrating duct carcinoma, NOS", "infiltrating duct carcinoma", 0),
    ("BRCA", "TCGA-BRCA", "Lobular carcinoma, NOS", "lobular carcinoma", 1),
    ("BRCA", "TCGA-BRCA", "Phyllodes tumor, malignant", "phyllodes tumor, malignant", -1),
    ("BLCA", "TCGA-BLCA", "Papillary adenocarcinoma, NOS", "papillary transitional cell carcinoma", 1),
    ("BLCA", "TCGA-BLCA", "Transitional cell carcinoma", "transitional cell carcinoma", 0),
    ("COADREAD", "TCGA-COAD", "Adenocarcinoma, NOS", "colon adenocarcinoma", 0),
    ("COADREAD", "TCGA-READ", "Adenocarcinoma with mixed subtypes", "rectal adenocarcinoma", 1),
    ("COADREAD", "TCGA-READ", "Mucinous adenocarcinoma", "rectal mucinous adenocarcinoma", -1),
    ("GBMLGG", "TCGA-GBM", "Glioblastoma", "glioblastoma", 0),
    ("GBMLGG", "TCGA-LGG", "Oligodendroglioma, anaplastic", "oligodendroglioma, anaplastic", 1),
    ("GBMLGG", "TCGA-LGG", "Astrocytoma, anaplastic", "astrocytoma, anaplastic", 1),
    ("GBMLGG", "TCGA-LGG", "Astrocytoma, NOS", "astrocytoma", 1),
    ("NSCLC", "TCGA-LUAD", "Bronchio-alveolar carcinoma, mucinous", "lung bronchiolo-alveolar carcinoma", -1),
    ("NSCLC", "TCGA-LUAD", "Bronchio-alveolar carcinoma", "lung bronchiolo-alveolar carcinoma", -1),
    (
        "NSCLC",
        "TCGA-LUAD",
        "Bronchiolo-alveolar carcinoma, mucinous",
        "lung bronchiolo-alveolar carcinoma, mucinous",
        -1,
    ),
    (
        "NSCLC",
        "TCGA-LUAD",
        "Bronchiolo-alveolar adenocarcinoma, NOS",
        "lung bronchiolo-alveolar adenocarcinoma",
        -1,
    ),
    ("GBMLGG", "TCGA-LGG", "Mixed glioma", "mixed glioma", 1),
    ("NSCLC", "TCGA-LUAD", "Adenocarcinoma with mixed subtypes", "lung adenocarcinoma", 0),
    ("NSCLC", "TCGA-LUSC", "Squamous cell carcinoma, keratinizing, NOS", "lung squamous cell carcinoma", 1),
    (
        "NSCLC",
        "TCGA-LUSC",
        "Squamous cell carcinoma, large cell, nonkeratinizing, NOS",
        "lung squamous cell carcinoma",
        1,
    ),
    (
        "NSCLC",
        "TCGA-LUAD",
        "Bronchiolo-alveolar carcinoma, non-mucinous",
        "lung bronchiolo-alveolar carcinoma",
        -1,
    ),
    *(
        ("NSCLC", "TCGA-LUAD", raw, f"lung {clean}", -1)
        for raw, clean in (
            ("Bronchio-alveolar carcinoma, mucinous", "bronchiolo-alveolar carcinoma"),
            ("Bronchio-alveolar carcinoma, NOS", "bronchiolo-alveolar carcinoma"),
            ("Bronchiolo-alveolar carcinoma, mucinous", "bronchiolo-alveolar carcinoma, mucinous"),
            ("Bronchiolo-alveolar adenocarcinoma, NOS", "bronchiolo-alveolar adenocarcinoma"),
        )
    ),
    ("RCC", "TCGA-KIRP", "Papillary adenocarcinoma, NOS", "papillary renal cell carcinoma", 0),
    ("RCC", "TCGA-KIRC", "Clear cell adenocarcinoma, NOS", "renal clear cell carcinoma", 1),
    ("RCC", "TCGA-KIRC", "Renal cell carcinoma, NOS", "renal clear cell carcinoma", 1),
    ("RCC", "TCGA-KICH", "Renal cell carcinoma, chromophobe type", "chromophobe renal cell carcinoma", 2),
    ("STAD", "TCGA-STAD", "Adenocarcinoma, intestinal type", "intestinal adenocarcinoma", 0),
    ("STAD", "TCGA-STAD", "Carcinoma, diffuse type", "diffuse carcinoma", 1),
    ("UCEC", "TCGA-UCEC", "Endometrioid adenocarcinoma, secretory variant", "endometrioid adenocarcinoma", 0),
    ("UCEC", "TCGA-UCEC", "Adenocarcinoma, NOS", "endometrioid adenocarcinoma", 0),
    ("UCEC", "TCGA-UCEC", "Serous surface papillary carcinoma", "serous cystadenocarcinoma", 1),
    ("UCEC", "TCGA-UCEC", "Clear cell adenocarcinoma, NOS", "clear cell adenocarcinoma", -1),
]
GOOD = {
    "name": "demo",
    "projects": ["P-A", "P-B"],
    "site": "knee",
    "classes": [["left one"], ["left two", "right two"]],
    "synonyms": {"uno": "one"},
    "diagnosis_prefix": {"P-A": "left", "P-B": "right"},
}


@pytest.mark.parametrize("onco", SITES)
def test_shipped_cohort_is_valid(onco: str) -> None:
    cohort = load_cohort(onco)
    assert (cohort.name, cohort.site) == (onco, SITES[onco])
    assert all(project.startswith("TCGA-") for project in cohort.projects)


def test_all_shipped_files_are_known() -> None:
    assert {file.stem.upper() for file in constants.COHORTS_ROOT.glob("*.json")} >= set(SITES)


@pytest.mark.parametrize(("onco", "project", "raw", "clean", "label"), DIAGNOSES)
def test_published_diagnoses(onco: str, project: str, raw: str, clean: str, label: int) -> None:
    cohort = load_cohort(onco)
    assert cohort.clean_diagnosis(raw, project) == clean
    assert cohort.class_of(clean) == label
    assert cohort.clean_diagnosis(clean, project) == clean  # published split files hold cleaned texts


def _write(path: Path, **changes: object) -> Path:
    value = {key: item for key, item in {**GOOD, **changes}.items() if item is not None}
    path.write_text(json.dumps(value))
    return path


def test_prefix_by_project_and_missing_diagnosis(tmp_path: Path) -> None:
    cohort = read_cohort(_write(tmp_path / "demo.json"))
    assert cohort.name == "DEMO"
    assert cohort.clean_diagnosis("Uno, NOS", "P-A") == "left one"
    assert cohort.clean_diagnosis("two", "P-B") == "right two"
    assert cohort.clean_diagnosis(None, "P-A") is None
    assert cohort.class_of(None) == -1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clases": []}, "unknown keys.*clases"),
        ({"site": None}, "missing keys.*site"),
        ({"site": " "}, "'site' must be a text"),
        ({"name": 3}, "'name' must be a text"),
        ({"projects": "TCGA-BRCA"}, "'projects' must be a list"),
        ({"classes": [["left one"]]}, "at least two lists"),
        ({"classes": [["left one"], []]}, "at least two lists"),
        ({"classes": {}}, "at least two lists"),
        ({"classes": [["Left one"], ["left two"]]}, "lower case"),
        ({"classes": [["left one, nos"], ["left two"]]}, "without ', nos'"),
        ({"classes": [["left one"], ["left one"]]}, "stands twice"),
        ({"classes": [["one"], ["left two"]]}, "can never match"),
        ({"synonyms": ["one"]}, "'synonyms' must be"),
        ({"synonyms": {"Uno": "one"}}, "synonym 'Uno'"),
        ({"diagnosis_prefix": {"P-C": "up"}}, r"names \['P-C'\]"),
        ({"diagnosis_prefix": 5}, "'diagnosis_prefix' must be"),
    ],
)
def test_wrong_definition(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    path = _write(tmp_path / "demo.json", **changes)
    with pytest.raises(ValueError, match=words) as caught:
        read_cohort(path)
    assert str(path) in str(caught.value)


def test_wrong_json(tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="one JSON object"):
        read_cohort(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        read_cohort(path)


def test_unknown_cohort_lists_the_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "demo.json")
    monkeypatch.setattr(constants, "COHORTS_ROOT", tmp_path)
    assert load_cohort("demo").site == "knee"
    with pytest.raises(FileNotFoundError, match=r"MARS.*\['DEMO'\]"):
        load_cohort("mars")

"""Patients with many slides, as GBMLGG has them: every patch stays one of its slide, from the file to the report."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import train_modaltune
from data_utils.cases.case import Case
from data_utils.features.store import FeatureMeta, read_coords, write_features
from models.aggregators.modaltune import ModalTune
from tests.small_cohort import IN_DIM, SmallCohort, make_small_cohort, split_row
from utils import constants
from utils.explain.__main__ import main as explain
from utils.explain.loaded_run import LoadedRun
from utils.prediction import __main__ as prediction

pytestmark = pytest.mark.usefixtures("quick_runs")
SLIDES, PATCHES, THRESHOLD = 12, 4, 20
TRAIN, VAL, TEST = 6, 2, 2


def marker(slide: str) -> float:
    """A number that every patch of a slide carries in its second feature."""
    _, _, case, *_, last = slide.split("-")
    return 100.0 * int(case) + int(last.removeprefix("DX"))


def write_marked(path: Path) -> None:
    generator = np.random.default_rng(int(marker(path.stem)))
    features = generator.normal(size=(PATCHES, IN_DIM))
    features[:, 1], features[:, 2] = marker(path.stem), np.arange(PATCHES)
    corners = generator.permutation(64)[:PATCHES]
    coords = 256 * np.stack([corners % 8, corners // 8], axis=1)
    write_features(path, features, coords, FeatureMeta(256, 256, 0.5, 0.5, "test"), dtype="float32")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> SmallCohort:
    root = tmp_path_factory.mktemp("cohort")
    made, start = make_small_cohort(root, TRAIN, VAL, TEST), 0
    for split, count in zip(constants.SPLITS, (TRAIN, VAL, TEST), strict=True):
        rows = []
        for case in range(start, start + count):
            # Not in the order of their names: the split file says the order.
            for slide in [*range(SLIDES, 0, -1)] if case % 2 else [1]:
                row = split_row(case, slide, Path(), case % 2)
                path = root / "marked" / f"{row['slide_submitter_id']}.h5"
                write_marked(path)
                rows.append(row | {"features_path": str(path)})
        made.split(split).write_text(json.dumps({"data": rows}))
        start += count
    return made


def check(case: Case) -> None:
    """Whether every patch is of the slide that the case says."""
    assert case.slide_of_patch is not None and len(case.slide_of_patch) == len(case.features) == len(
        case.coords
    )
    assert len(case.features) == (THRESHOLD if len(case.slides) == SLIDES else PATCHES)
    names = [case.slides[k] for k in case.slide_of_patch.tolist()]
    assert [marker(name) for name in names] == case.features[:, 1].tolist()
    # The report on modalities gives validation patients the slides of another one, all of them.
    exchanged = int(case.submitter_id.split("-")[2]) in range(TRAIN, TRAIN + VAL)
    owners = {name.rsplit("-", 3)[0] for name in case.slides}
    assert len(owners) == 1 and (exchanged or owners == {case.submitter_id})
    for name in set(names):  # patches keep their order within a slide
        order = case.features[[own == name for own in names], 2].tolist()
        assert order == sorted(set(order))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """Every case that a model gets."""
    cases: list[Case] = []
    forward = ModalTune.forward

    def watched(self: ModalTune, case: Case, *args: Any, **options: Any) -> torch.Tensor:
        cases.append(case)
        return forward(self, case, *args, **options)

    monkeypatch.setattr(ModalTune, "forward", watched)
    return cases


def test_slides_keep_their_patches(cohort: SmallCohort, seen: list[Case], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_modaltune.main(cohort.flags(run, num_epochs=1, threshold=THRESHOLD))
    for case in seen:
        check(case)
    many = {case.case_id for case in seen if len(case.slides) == SLIDES}
    assert many >= {f"case-{k}" for k in range(1, TRAIN + VAL + TEST, 2)}
    assert {len(case.slides) for case in seen} == {1, SLIDES}
    assert any(case.slides[0].endswith("DX12") and case.slides[-1].endswith("DX1") for case in seen)

    # New patients: the same slides in a folder, whose are known by barcode, and each slide alone.
    seen.clear()
    folder = tmp_path / "new"
    folder.mkdir()
    for row in json.loads(cohort.split("test").read_text())["data"]:
        shutil.copy(row["features_path"], folder)
    words = [str(run), f"--features_dir={folder}", f"--genomics_csv_path={cohort.genes}", "--device=cpu"]
    words += [f"--output={tmp_path / 'p.csv'}", f"--embeddings={tmp_path / 'e.npz'}", "--per_slide"]
    assert prediction.main(words) == 0
    assert Counter(len(case.slides) for case in seen) == {1: 1 + SLIDES, SLIDES: 1}
    for case in seen:
        check(case)
    with np.load(tmp_path / "e.npz") as found:
        alone = [slide for slide in found["slides"].tolist() if slide]
    assert len(set(alone)) == SLIDES and {marker(slide) // 100 for slide in alone} == {TRAIN + VAL + 1}

    # Explanations: the steps of the path keep the slides, and the table names the slide of every patch.
    seen.clear()
    explain([str(run), "--device", "cpu", "--steps", "2"])
    dataset = LoadedRun.open(run, torch.device("cpu")).datasets["test"]
    cases = {case.submitter_id: case for case in (dataset[k] for k in range(len(dataset)))}
    for case in cases.values():
        check(case)
    for step in seen:
        whole = cases[step.submitter_id]
        assert step.slides == whole.slides and torch.equal(step.slide_of_patch, whole.slide_of_patch)
    for name, case in cases.items():
        table = pd.read_csv(run / "report" / "patients" / name / "patches.csv")
        assert table.slide.tolist() == [case.slides[k] for k in case.slide_of_patch.tolist()]
        for slide, own in table.groupby("slide"):
            corners, _ = read_coords(cohort.root / "marked" / f"{slide}.h5")
            drawn = case.features[[n == slide for n in table.slide], 2].long().numpy()
            assert own[["x", "y"]].to_numpy().tolist() == corners[drawn].tolist()

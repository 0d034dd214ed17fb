"""An extraction called again: the same work is skipped, other work is named and never taken for the same."""

import os
import re
import shutil
from dataclasses import replace

import h5py
import pytest
import torch
from torch import nn

from data_utils.features.making import Making
from data_utils.features.store import inspect_features
from data_utils.slides.extraction import extract_cohort
from data_utils.slides.resolution import NOTHING_STATED, StatedMpp
from data_utils.slides.resume import Work, weights_digest
from data_utils.slides.tile_reading import TileRecipe
from data_utils.slides.tissue import TissueRule
from tests.data_utils.slides.test_extraction import report
from tests.data_utils.slides.test_wsi import tissue_slide, write_slide

RECIPE = TileRecipe("scaled", 64, 0.5, 56, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Scaled(nn.Module):
    """Mean colours times a weight."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images):
        return images.mean(dim=(2, 3)) * self.scale


def run(folder, scale=1.0, recipe=RECIPE, **options):
    slides = sorted((folder / "slides").iterdir())
    extract_cohort(slides, Scaled(scale), recipe, folder / "out", **options)
    return report(folder / "out" / "extraction_report.csv").loc["a.svs"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    write_slide(folder / "slides" / "a.svs", tissue_slide(512, (0, 0, 256, 192)), None)
    assert run(folder).status == "done"
    return folder


@pytest.fixture
def again(tmp_path, finished):
    """A finished extraction of one slide, whose resolution (20x) was assumed; copied with its times."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def replaced(folder, image=None, mpp=None):
    path = folder / "slides" / "a.svs"
    write_slide(path, tissue_slide(512, (0, 0, 256, 192)) if image is None else image, mpp)


def test_the_record(again):
    making, path = inspect_features(again / "out" / "a.h5").meta.making, again / "slides" / "a.svs"
    assert (making.slide_bytes, making.slide_mtime) == (path.stat().st_size, path.stat().st_mtime)
    assert (making.min_tissue, making.precision) == (0.1, "fp32") and making.tissue.startswith("auto-")
    assert making.weights == weights_digest(Scaled()) != weights_digest(Scaled(2.0))


@pytest.mark.parametrize(
    ("options", "change", "difference"),
    [
        ({"min_tissue": 1.0}, None, "min_tissue 0.1 instead of 1.0"),
        ({"tissue": "published", "min_tissue": 0.1}, None, r"tissue rule auto-\w{6} instead of published-\w{6}"),
        ({"scale": 2.0}, None, r"weights \w{10}\.\.\. instead of \w{10}\.\.\."),
        ({"precision": "bf16"}, None, "precision fp32 instead of bf16"),
        ({"recipe": replace(RECIPE, mean=(0.1, 0.1, 0.1))}, None, "tile recipe"),
        ({"recipe": replace(RECIPE, tile_size=128)}, None, "patch_size 64 instead of 128"),
        ({"stated": StatedMpp(0.25)}, None, r"level0_mpp 0\.5 instead of 0\.25 \(--mpp\)"),
        ({"stated": StatedMpp(by_slide={"a": 0.25})}, None, r"level0_mpp 0\.5 instead of 0\.25 \(--mpp_csv\)"),
        ({}, lambda folder: replaced(folder, mpp=0.25), r"bytes of the slide .*level0_mpp 0\.5 instead of 0\.25"),
        ({}, lambda folder: replaced(folder, tissue_slide(768, (0, 0, 768, 192))), "bytes of the slide"),
    ],
)  # fmt: skip
def test_other_work_is_named(again, options, change, difference):
    if change:
        change(again)
    before = (again / "out" / "a.h5").read_bytes()
    line = run(again, **options)
    assert (
        line.status == "failed" and "was made differently: " in line.reason and "--overwrite" in line.reason
    )
    assert re.search(difference, line.reason), line.reason
    assert (again / "out" / "a.h5").read_bytes() == before
    assert run(again, **options, overwrite=True).status == "done"
    assert run(again, **options).status == run(again, **options, overwrite=True).status == "skipped"


def test_a_stated_resolution_is_compared_when_it_is_no_longer_stated(again):
    assert run(again, stated=StatedMpp(0.25), overwrite=True).mpp == 0.25
    assert "level0_mpp 0.25 instead of 0.5" in run(again).reason


def test_a_copied_slide_is_the_same_slide(again):
    os.utime(again / "slides" / "a.svs", (1e9, 1e9))
    assert run(again).status == "skipped"


@pytest.mark.parametrize("name", ["a", "a.mrxs"])
def test_slides_of_several_files(tmp_path, name):
    """A DICOM slide is a folder, a MIRAX slide a file with a folder beside it."""
    folder = tmp_path / "a"
    folder.mkdir()
    (tmp_path / "a.mrxs").write_bytes(b"index")
    (folder / "1.dat").write_bytes(b"pixels")
    work = Work(RECIPE, 3, "", None, TissueRule(), NOTHING_STATED)
    before = work.making(tmp_path / name)
    assert before.slide_bytes == 6 + (5 if name == "a.mrxs" else 0)
    (folder / "1.dat").write_bytes(b"others")
    assert set(before.differences(work.making(tmp_path / name))) == {"slide_ends"}


def test_a_slide_that_cannot_be_read_any_more_is_reported(again):
    path = again / "slides" / "a.svs"
    path.write_bytes(path.read_bytes()[:100])
    line = run(again)
    assert line.status == "failed" and "cannot be opened" in line.reason


def test_files_without_the_record_get_one_warning(again, caplog):
    with h5py.File(again / "out" / "a.h5", "r+") as file:
        del file["coords"].attrs["weights"]
    assert run(again, scale=2.0).status == "skipped"
    assert len([r for r in caplog.records if "1 feature files do not say of which slide" in r.message]) == 1
    assert run(again, scale=2.0, overwrite=True).status == "done"
    assert inspect_features(again / "out" / "a.h5").meta.making.weights == weights_digest(Scaled(2.0))


@pytest.mark.parametrize("value", ["text", [1, 2], None])
def test_attributes_that_are_no_record(finished, value):
    making = inspect_features(finished / "out" / "a.h5").meta.making
    attributes = dict(vars(making))
    assert Making.read(attributes) == making
    assert Making.read(attributes | {"slide_bytes": value}) is None


def test_digest_follows_names_types_and_values():
    state = {"a": torch.arange(4.0), "b": torch.tensor(3, dtype=torch.int64)}

    class Fixed(nn.Module):
        def __init__(self, **tensors):
            super().__init__()
            for name, tensor in tensors.items():
                self.register_buffer(name, tensor)

    same = weights_digest(Fixed(b=state["b"], a=state["a"].clone()))
    assert weights_digest(Fixed(**state)) == same
    for other in ({"a": -state["a"]}, {"a": state["a"].half()}, {"a": state["a"].reshape(2, 2)}):
        assert weights_digest(Fixed(**(state | other))) != same
    assert weights_digest(Fixed(c=state["a"], b=state["b"])) != same
    assert weights_digest(Fixed(a=state["a"].bfloat16())) != same

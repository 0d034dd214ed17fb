"""Slides to feature files: exact positions, restart, isolation of bad slides, shards, exit status."""

import errno
import json
import logging
import os
import re
import shutil
import signal
import struct
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision import transforms

from data_utils import TCGA_extract_feats_GIGAPATH as gigapath
from data_utils.features.store import FeatureMeta, read_features, write_features
from data_utils.slides import command_line as extraction_cli
from data_utils.slides import encoding_stage, extraction, tile_reading
from data_utils.slides import report as reports
from data_utils.slides import wsi as slides
from data_utils.slides.command_line import in_shard
from data_utils.slides.extraction import autocast_dtype, extract_cohort
from data_utils.slides.tile_reading import TileRecipe
from data_utils.tables.checked_table import checked_text
from models.prov_gigapath.tile_encoder import build_tile_encoder
from tests.data_utils.slides.test_encoding_stage import Immediate
from tests.data_utils.slides.test_wsi import damage, painted, tissue_slide, write_slide
from utils import constants
from utils.files import read_json, temporary_stem

CPU = torch.device("cpu")
DEMO_CONFIG = constants.CONFIGS_ROOT / "demo_gigapath_tile_encoder.json"
RECIPE = TileRecipe("colours", 64, 0.5, 56, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class MeanColour(nn.Module):
    """An encoder whose features tell what it was shown: the mean colour of the middle, 0 to 255."""

    def forward(self, images):
        return images[:, :, 4:-4, 4:-4].mean(dim=(2, 3)) * 255


class Stopping(MeanColour):
    """Raises on the n-th batch; the first call is the encoder's trial."""

    def __init__(self, error, batch):
        super().__init__()
        self.error, self.left = error, batch + 1

    def forward(self, images):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().forward(images)


def run(tmp_path, *, encoder=None, recipe=RECIPE, **options):
    """Extracts all of tmp_path/slides; returns the report, one line a slide."""
    slides = sorted((tmp_path / "slides").iterdir())
    options = {"min_tissue": 0.5} | options
    extract_cohort(slides, encoder or MeanColour(), recipe, tmp_path / "out", **options)
    return report(tmp_path / "out" / "extraction_report.csv")


def report(path):
    return pd.read_csv(path, keep_default_na=False).set_index("slide")


def report_rows(path):
    return list(pd.read_csv(path, keep_default_na=False).itertuples())


def files(folder, pattern="*.h5"):
    return sorted(path.stem for path in folder.glob(pattern))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Slides and weights that tests copy."""
    folder = tmp_path_factory.mktemp("library")
    for name in "abc":
        write_slide(folder / "small" / f"{name}.svs", tissue_slide(512, (0, 0, 256, 192), ord(name)))
        write_slide(folder / "large" / f"{name}.svs", tissue_slide(600, (0, 0, 600, 256), ord(name)))
    torch.manual_seed(0)
    torch.save(build_tile_encoder(read_json(DEMO_CONFIG)).state_dict(), folder / "model.bin")
    return folder


@pytest.fixture
def three(tmp_path, library):
    """Three slides of 12 tiles with tissue each."""
    shutil.copytree(library / "small", tmp_path / "slides")
    return tmp_path


# ---------------------------------------------------------------------------- positions
@pytest.mark.parametrize("workers", [0, 2])
def test_features_belong_to_their_coordinates(tmp_path, workers):
    images = {}
    for name, mpp, downsamples in (
        ("a", 0.25, (1, 2)),
        ("b", 0.5, (1,)),
        ("c", 1.0, (1, 2)),
        ("d", 0.3, (1, 4)),
    ):
        images[name] = painted(6, 5, round(64 * 0.5 / mpp), margin=3)
        write_slide(tmp_path / "slides" / f"{name}.svs", images[name], mpp, downsamples)
    lines = run(tmp_path, workers=workers, batch_size=7, min_tissue=0.0)
    assert lines.status.eq("done").all() and lines.tiles.eq(30).all()
    for name, image in images.items():
        slide = read_features(tmp_path / "out" / f"{name}.h5")
        middle = slide.coords + slide.patch_size_level0 // 2
        assert np.abs(slide.features - image[middle[:, 1], middle[:, 0]]).max() <= 1, name
        assert len(np.unique(slide.features, axis=0)) == 30
        assert replace(slide.meta, making=None) == FeatureMeta(
            64, slide.patch_size_level0, lines.mpp[f"{name}.svs"], 0.5, "colours", False, "openslide.mpp-x"
        )
    assert read_features(tmp_path / "out" / "d.h5").patch_size_level0 == 107


def test_real_resolution_of_enlarged_slides(tmp_path):
    write_slide(tmp_path / "slides" / "a.svs", tissue_slide(1000, (0, 0, 1000, 1000)), 1.0)
    recipe = TileRecipe("colours", 256, 0.5, 224, (0.0,) * 3, (1.0,) * 3)
    assert run(tmp_path, recipe=recipe).tiles["a.svs"] == 49


def test_only_tiles_with_tissue(three):
    run(three)
    slide = read_features(three / "out" / "a.h5")
    assert len(slide.features) == 12
    assert (slide.coords[:, 0] < 256).all() and (slide.coords[:, 1] < 192).all()
    assert (slide.features[:, 1] < 140).all()  # glass is brighter


# ---------------------------------------------------------------------------- recipes
@pytest.mark.parametrize("name", ["gigapath_tile_encoder", "demo_gigapath_tile_encoder"])
def test_shipped_recipe_prepares_tiles_as_published(name):
    config = read_json(constants.CONFIGS_ROOT / f"{name}.json")
    recipe = TileRecipe.from_config(name, config)
    assert (recipe.tile_size, recipe.target_mpp, recipe.encoder) == (256, 0.5, name)
    published = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    assert_same_preparation(recipe, published, 256)


def test_recipe_with_resizing():
    recipe = TileRecipe("b", 512, 0.5, 448, (0.5,) * 3, (0.2,) * 3, resize=448, interpolation="bilinear")
    wanted = transforms.Compose(
        [transforms.Resize(448), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.2,) * 3)]
    )
    assert_same_preparation(recipe, wanted, 512)


def assert_same_preparation(recipe, transform, side):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    tile = Image.fromarray(pixels)
    batch = torch.from_numpy(recipe.prepare(tile).copy())[None]
    buffer = torch.empty(batch.shape)
    for ours in (recipe.normalise(batch), recipe.normalise(batch, out=buffer), buffer):
        assert torch.allclose(ours[0], transform(tile), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile_sise": 256}, r"unknown entries \['tile_sise'\]"),
        ({"mean": None}, r"entries \['mean'\] are missing"),
        ({"std": [0.2, 0.2]}, "three numbers"),
        ({"target_mpp": 0}, "must be positive"),
        ({"input_size": 300}, "smaller than input_size 300"),
        ({"interpolation": "nearest"}, "unknown interpolation"),
        ({"tile_size": "256"}, "whole numbers up to 65,536"),
        ({"tile_size": 2**31}, "whole numbers up to 65,536"),
        ({"std": [0.2, float("inf"), 0.2]}, "no number of a tile"),
        ({"mean": [0.2, -0.5, 0.2]}, "values from 0 to 1"),
    ],
)
def test_wrong_recipes_are_refused(change, message):
    config = read_json(DEMO_CONFIG) | change
    config = {name: value for name, value in config.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        TileRecipe.from_config("x", config)


# ---------------------------------------------------------------------------- bad slides
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_slides_lose_only_themselves(three, workers, caplog):
    slides = three / "slides"
    (slides / "ab_corrupt.svs").write_bytes(os.urandom(5000))
    write_slide(slides / "ac_blank.svs", np.full((512, 512, 3), 244, np.uint8))
    damage(write_slide(slides / "ad_damaged.svs", tissue_slide(512, (0, 0, 512, 512)), 0.5, (1, 16)))
    write_slide(slides / "ae_small.svs", tissue_slide(40, (0, 0, 40, 40)), 0.5, (1,))
    write_slide(slides / "zz_nompp.svs", tissue_slide(512, (0, 0, 256, 192)), description="Aperio")
    lines = run(three, workers=workers, batch_size=4)
    failed = lines[lines.status == "failed"].reason
    assert lines[lines.status == "done"].index.tolist() == ["a.svs", "b.svs", "c.svs", "zz_nompp.svs"]
    assert failed["ab_corrupt.svs"].startswith("cannot be opened: damaged")
    assert failed["ac_blank.svs"].startswith("no tissue")
    assert failed["ad_damaged.svs"].startswith("OpenSlideError")
    assert failed["ae_small.svs"].startswith("smaller than one tile")
    assert len(failed) == 4
    assert files(three / "out") == ["a", "b", "c", "zz_nompp"]
    assert list((three / "out").glob(".*")) == []
    assert lines.mpp["zz_nompp.svs"] == "0.25" and lines.mpp_assumed["zz_nompp.svs"] == "True"
    assert "zz_nompp.svs states no resolution: assuming 0.25" in caplog.text
    assert read_features(three / "out" / "zz_nompp.h5").meta.mpp_assumed is True


def test_unexpected_errors_of_a_slide_are_reported(three, monkeypatch):
    original = extraction.plan_slide

    def planning(path, *args, **options):
        if path.stem == "b":
            raise MemoryError("so large")
        return original(path, *args, **options)

    monkeypatch.setattr(extraction, "plan_slide", planning)
    lines = run(three)
    assert lines.status.tolist() == ["done", "failed", "done"]
    assert lines.reason["b.svs"] == "MemoryError: so large"


def with_declared(path, tag, value):
    """The same file with another number in the directory of its first level."""
    with tifffile.TiffFile(path) as file:
        entry = file.pages[0].tags[tag]
        offset, order = entry.valueoffset, file.byteorder
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = struct.pack(order + "I", value)
    path.write_bytes(content)


@pytest.mark.parametrize("workers", [0, 1])
def test_sizes_that_no_slide_has_fail_before_anything_is_read(three, workers):
    slides = three / "slides"
    for name, tag, value in (
        ("size", "ImageWidth", 2**31 - 16),
        ("tile_width", "TileWidth", 2**24),
        ("tile_height", "TileLength", 2**31 - 16),
    ):
        shutil.copy(slides / "a.svs", slides / f"b_{name}.svs")
        with_declared(slides / f"b_{name}.svs", tag, value)
    lines = run(three, workers=workers)
    failed = lines[lines.status == "failed"].reason
    assert lines[lines.status == "done"].index.tolist() == ["a.svs", "b.svs", "c.svs"]
    assert len(failed) == 3 and failed.str.contains("damaged").all()
    assert failed["b_tile_width.svs"].startswith("declares tiles of 16,777,216 x 256 pixels at level 0")


def test_what_ends_the_process_costs_one_slide(three, monkeypatch):
    original = extraction.plan_slide

    def planning(path, *args, **options):
        if path.stem == "b":
            os.abort()
        return original(path, *args, **options)

    monkeypatch.setattr(extraction, "plan_slide", planning)
    lines = run(three)
    assert lines.status.tolist() == ["done", "failed", "done"]
    assert "SIGABRT" in lines.reason["b.svs"] and "damaged" in lines.reason["b.svs"]


@pytest.mark.parametrize("batch_size", [4, 64])
def test_a_slide_at_which_reading_processes_end_fails_alone(three, monkeypatch, caplog, batch_size):
    original = tile_reading.fastest

    def opening(path):
        if path.stem == "b" and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path)

    monkeypatch.setattr(tile_reading, "fastest", opening)
    lines = run(three, workers=2, batch_size=batch_size)
    assert lines.status.to_dict() == {"a.svs": "done", "b.svs": "failed", "c.svs": "done"}
    assert "ended the process" in lines.reason["b.svs"] and "read again one by one" in caplog.text
    assert len(read_features(three / "out" / "c.h5").features) == 12
    assert files(three / "out") == ["a", "c"] and not list((three / "out").glob(".*"))


def test_a_slide_whose_reading_does_not_end_fails_alone(three, monkeypatch):
    original = tile_reading.fastest

    def opening(path):
        if path.stem == "b" and torch.utils.data.get_worker_info() is not None:
            time.sleep(60)
        return original(path)

    monkeypatch.setattr(tile_reading, "fastest", opening)
    monkeypatch.setattr(tile_reading, "READ_LIMIT", 1)
    lines = run(three, workers=1)
    assert lines.status.to_dict() == {"a.svs": "done", "b.svs": "failed", "c.svs": "done"}
    assert "takes more than 0.0166667 minutes" in lines.reason["b.svs"]


def test_odd_names(three):
    slides = three / "slides"
    latin, longest = os.fsdecode(b"Pr\xe4parat.svs"), f"{'a' * 247}.svs"
    for name in (latin, longest, "b P.2024.01 \u00e9.SVS"):
        shutil.copy(slides / "a.svs", slides / name)
    lines = run(three)
    assert lines.status.eq("done").all() and len(lines) == 6
    assert "Pr\\xe4parat.svs" in lines.index
    assert set(files(three / "out")) == {"a", "b", "c", latin[:-4], longest[:-4], "b P.2024.01 \u00e9"}
    (three / "out" / f".{temporary_stem('a' * 247)}.4711.tmp.h5").write_bytes(b"half")
    (three / "out" / longest.replace(".svs", ".h5")).unlink()
    assert run(three).status.eq("skipped").sum() == 5
    assert not list((three / "out").glob(".*"))


def test_a_name_that_the_file_system_refuses_loses_only_its_slide(three, monkeypatch):
    original = extraction.FeatureWriter

    def writer(path, *args):
        if path.stem == "b":
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        return original(path, *args)

    monkeypatch.setattr(extraction, "FeatureWriter", writer)
    lines = run(three)
    assert lines.status.tolist() == ["done", "failed", "done"] and "too long" in lines.reason["b.svs"]


def test_features_that_are_not_finite_fail_the_slide(three):
    class Overflowing(MeanColour):
        def forward(self, images):
            return super().forward(images) * 1e4

    lines = run(three, encoder=Overflowing())
    assert lines.status.eq("failed").all() and lines.reason.str.contains("float16.*NaN or infinite").all()
    assert files(three / "out") == []


def test_failing_encoder_stops_the_run(three):
    with pytest.raises(RuntimeError, match="broken"):
        run(three, encoder=Stopping(RuntimeError("broken"), 2), batch_size=12)
    lines = report(three / "out" / "extraction_report.csv")
    assert lines.status.tolist() == ["done", "done", "pending"] and files(three / "out") == ["a", "b"]


def test_out_of_memory_names_the_flag(three):
    with pytest.raises(RuntimeError, match="--batch_size"):
        run(three, encoder=Stopping(torch.OutOfMemoryError("no"), 1))


# ---------------------------------------------------------------------------- restart
def test_restart_does_only_what_is_missing(three):
    first = run(three)
    assert first.status.eq("done").all() and first.tiles.eq(12).all()
    out = three / "out"
    stamp = (out / "a.h5").stat().st_mtime_ns
    (out / "b.h5").unlink()
    (out / "c.h5").write_bytes((out / "c.h5").read_bytes()[:-2000])
    again = run(three)
    assert again.status.tolist() == ["skipped", "done", "done"]
    assert again.tiles.eq(12).all() and again.mpp.astype(float).eq(0.5).all()
    assert (out / "a.h5").stat().st_mtime_ns == stamp
    assert len(read_features(out / "c.h5").features) == 12
    third = run(three, encoder=Stopping(RuntimeError("nothing is to do"), 0))
    assert third.status.eq("skipped").all() and not third.mpp_assumed.any()


def test_interrupted_run_continues(three):
    with pytest.raises(KeyboardInterrupt):  # in the middle of the second slide
        run(three, encoder=Stopping(KeyboardInterrupt(), 4), batch_size=4)
    out = three / "out"
    assert sorted(path.name for path in out.iterdir()) == ["a.h5", "extraction_report.csv"]
    path = out / "extraction_report.csv"
    lines, content = report(path), path.read_bytes()
    assert lines.status.to_dict() == {"a.svs": "done", "b.svs": "pending", "c.svs": "pending"}
    assert "start again" in lines.reason["b.svs"]
    assert checked_text(content) and checked_text(content[:-9]) is None
    assert run(three).status.tolist() == ["skipped", "done", "done"]


def test_leftovers_of_killed_runs_are_removed(three):
    out = three / "out"
    out.mkdir()
    for name in (".b.4711.tmp.h5", ".of_another_shard.4711.tmp.h5", ".b.x.4711.tmp.h5"):
        (out / name).write_bytes(b"half")
    assert run(three).status.eq("done").all()
    assert sorted(path.name for path in out.glob(".*")) == [
        ".b.x.4711.tmp.h5",
        ".of_another_shard.4711.tmp.h5",
    ]


@pytest.mark.parametrize(
    ("meta", "dim", "difference"),
    [
        (FeatureMeta(64, 64, 0.5, 0.5, "other"), 3, "encoder other instead of colours"),
        (FeatureMeta(256, 64, 0.5, 0.5, "colours"), 3, "patch_size 256 instead of 64"),
        (FeatureMeta(64, 64, 0.5, 1.0, "colours"), 3, "target_mpp 1.0 instead of 0.5"),
        (FeatureMeta(64, 64, 0.5, 0.5, "colours"), 7, "dim 7 instead of 3"),
        (FeatureMeta(), 3, None),  # a file of another tool that says nothing
    ],
)
def test_files_made_otherwise_are_neither_kept_nor_overwritten(three, meta, dim, difference):
    path = three / "out" / "b.h5"
    write_features(path, np.ones((4, dim)), np.arange(8).reshape(4, 2), meta)
    line = run(three).loc["b.svs"]
    if difference is None:
        assert line.status == "skipped"
    else:
        assert line.status == "failed" and difference in line.reason and "--output_dir" in line.reason
    assert (read_features(path).features == 1).all()


def test_report_is_current_while_running(three, monkeypatch):
    monkeypatch.setattr(reports, "REPORT_INTERVAL", -1.0)
    seen = []

    class Watching(MeanColour):
        def forward(self, images):
            path = three / "out" / "extraction_report.csv"
            lines = report(path).status.tolist() if path.exists() else ["pending"] * 3
            assert len(lines) == 3
            seen.append(lines.count("done"))
            return super().forward(images)

    run(three, encoder=Watching(), batch_size=2)
    # The trial, then six batches a slide; the encoder may be three batches ahead of what is written.
    assert seen == sorted(seen) and seen[6] == 0 and seen[10] == 1 and seen[16] == 2


@pytest.mark.parametrize(("reading", "encoding", "hint"), [(0.0, 50.0, False), (50.0, 0.0, True)])
def test_log_says_how_long_the_encoder_waited_for_tiles(three, monkeypatch, caplog, reading, encoding, hint):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(extraction, "SLOW_SLIDE", 0.0)
    monkeypatch.setattr(encoding_stage, "ThreadPoolExecutor", Immediate)
    now = [0.0]

    def pass_time(seconds):
        now[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(extraction, "time", clock)
    monkeypatch.setattr(encoding_stage, "time", clock)
    original = slides.read_tile

    def slow_tile(*args):
        pass_time(reading)
        return original(*args)

    class Slow(MeanColour):
        def forward(self, images):
            pass_time(encoding)
            return super().forward(images)

    monkeypatch.setattr(slides, "read_tile", slow_tile)
    paths = sorted((three / "slides").iterdir())
    result = extract_cohort(paths, Slow(), RECIPE, three / "out", min_tissue=0.5, batch_size=4)
    assert result.waiting == pytest.approx(1.0 if hint else 0.0)
    assert f"the encoder waited for tiles in {100 if hint else 0} % of the time" in caplog.text
    assert ("more --workers (now 0) and CPUs would help" in caplog.text) == hint
    assert re.search(r"a.svs done: 12 tiles in \d+.\d s, \d+ % of it waiting for tiles", caplog.text)


def test_previews(three):
    run(three, previews=True)
    assert files(three / "out" / "previews", "*.png") == ["a", "b", "c"]
    assert files(three / "out" / "previews", "*.geojson") == ["a", "b", "c"]
    for path in (three / "out" / "previews").glob("*.geojson"):
        found = json.loads(path.read_text())["features"]
        squares = [
            f["geometry"]["coordinates"][0][0] for f in found if f["properties"]["objectType"] == "tile"
        ]
        assert squares == read_features(three / "out" / f"{path.stem}.h5").coords.tolist()
        assert len(squares) < len(found)  # and the tissue


# ---------------------------------------------------------------------------- shards and options
@settings(deadline=None)
@given(st.lists(st.text("abcXYZ019-.", min_size=1, max_size=12), unique=True), st.integers(1, 9))
def test_every_slide_belongs_to_one_shard(names, count):
    for name in names:
        owners = [index for index in range(1, count + 1) if in_shard(name, (index, count))]
        assert len(owners) == 1


def test_shards_share_the_work():
    counts = [sum(in_shard(f"TCGA-{n:04}", (i, 4)) for n in range(400)) for i in range(1, 5)]
    assert sum(counts) == 400 and min(counts) > 60


def test_precisions(monkeypatch):
    assert autocast_dtype("auto", CPU) is None and autocast_dtype("bf16", CPU) is torch.bfloat16
    with pytest.raises(ValueError, match="needs a GPU"):
        autocast_dtype("fp16", CPU)
    for supported, wanted in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, supported=supported: supported
        )
        assert autocast_dtype("auto", torch.device("cuda")) is wanted


# ---------------------------------------------------------------------------- command line
@pytest.fixture
def command(tmp_path, library):
    """Calls the entry point on three slides of 2 tiles with tissue each, with a small random encoder."""
    shutil.copytree(library / "large", tmp_path / "slides")
    shutil.copy(library / "model.bin", tmp_path)

    def call(*flags):
        defaults = ["--onco", "TEST", "--slides_dir", tmp_path / "slides", "--output_dir", tmp_path / "out"]
        defaults += ["--encoder_config", DEMO_CONFIG, "--checkpoint", tmp_path / "model.bin"]
        return gigapath.main([str(flag) for flag in [*defaults, "--workers", 0, "--device", "cpu", *flags]])

    return call


def test_entry_point(command, tmp_path):
    assert command("--precision", "bf16", "--previews") == 0
    slide = read_features(tmp_path / "out" / "a.h5")
    assert slide.features.shape == (2, 64) and slide.meta.encoder == "demo_gigapath_tile_encoder"
    assert slide.coords.tolist() == [[0, 0], [256, 0]] and slide.patch_size_level0 == 256
    assert files(tmp_path / "out" / "previews", "*.png") == ["a", "b", "c"]
    assert command("--precision", "bf16") == 0
    assert report(tmp_path / "out" / "extraction_report.csv").status.eq("skipped").all()


def test_paths_of_the_cohort_come_from_constants(command, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DATA_ROOT", tmp_path)
    monkeypatch.setattr(constants, "FEATURES_ROOT", tmp_path / "features")
    (tmp_path / "TCGA-BRCA").mkdir()
    (tmp_path / "slides").rename(tmp_path / "TCGA-BRCA" / "images")
    flags = ["--onco", "brca", "--workers", "0", "--limit", "2", "--checkpoint", str(tmp_path / "model.bin")]
    assert gigapath.main([*flags, "--encoder_config", str(DEMO_CONFIG), "--device", "cpu"]) == 0
    assert files(tmp_path / "features" / "gigapath" / "TCGA-BRCA") == ["a", "b"]


def test_exit_status_counts_failures(command, tmp_path):
    (tmp_path / "slides" / "x.svs").write_bytes(b"no slide")
    (tmp_path / "slides" / "y.svs").write_bytes(b"no slide")
    assert command() == 1
    assert command("--allow_failures", 1) == 1
    assert command("--allow_failures", 2) == 0


def test_shards_write_their_own_reports(command, tmp_path):
    assert command("--shard", "1/2") == 0 and command("--shard", "2/2") == 0
    one, two = (report(tmp_path / "out" / f"extraction_report_{i}_of_2.csv") for i in (1, 2))
    assert set(one.index) | set(two.index) == {"a.svs", "b.svs", "c.svs"}
    assert not set(one.index) & set(two.index)
    assert files(tmp_path / "out") == ["a", "b", "c"]


def test_nothing_to_do_is_an_error_that_shows_the_folder(command, tmp_path, caplog):
    (tmp_path / "empty").mkdir()
    assert command("--slides_dir", tmp_path / "empty") == 2
    assert f"no slides found in {tmp_path / 'empty'}" in caplog.text


def test_two_slides_of_one_name_fail_and_the_others_go_on(command, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "slides" / "a.tif").touch()
    (tmp_path / "slides" / "again").mkdir()
    (tmp_path / "slides" / "again" / "b.svs").symlink_to(tmp_path / "slides" / "b.svs")
    (tmp_path / "slides" / "notes.txt").touch()
    assert command() == 1
    rows = report_rows(tmp_path / "out" / "extraction_report.csv")
    assert sorted((row.slide, row.status) for row in rows) == [
        ("a.svs", "failed"),
        ("a.tif", "failed"),
        ("b.svs", "done"),
        ("b.svs", "duplicate"),
        ("c.svs", "done"),
    ]
    assert "would share one feature file" in rows[0].reason and "a.tif" in rows[0].reason
    assert "5 slides found = 2 done + 0 skipped + 2 failed + 1 duplicates; see" in caplog.text
    assert "1 other files are no slides (1 .txt)" in caplog.text
    caplog.clear()
    command("--limit", 1)
    assert "0 done + 1 skipped + 2 failed + 1 duplicates + 1 left to other --shard" in caplog.text


def test_faults_of_shards_add_up(command, tmp_path):
    for name in ("gone1", "gone2", "gone3", "gone4"):
        (tmp_path / "slides" / f"{name}.svs").symlink_to(tmp_path / "moved.svs")
    for index in (1, 2):
        command("--shard", f"{index}/2")
    rows = [
        row.slide
        for index in (1, 2)
        for row in report_rows(tmp_path / "out" / f"extraction_report_{index}_of_2.csv")
    ]
    assert sorted(rows) == ["a.svs", "b.svs", "c.svs", *(f"gone{n}.svs" for n in range(1, 5))]


def test_an_output_folder_that_cannot_be_written(command, tmp_path, caplog):
    (tmp_path / "out").write_text("in the way")
    assert command() == 2
    assert f"nothing can be written to the folder {tmp_path / 'out'} (File exists)" in caplog.text


def test_a_folder_of_slides_that_is_none(command, tmp_path, caplog):
    assert command("--slides_dir", tmp_path / "absent") == 2
    assert f"{tmp_path}/absent: there is no such folder" in caplog.text
    assert command("--slides_dir", tmp_path / "model.bin") == 2
    assert "model.bin is no folder" in caplog.text


def test_absent_weights_are_an_error(command, tmp_path, caplog):
    assert command("--checkpoint", tmp_path / "absent.bin") == 2
    assert "absent.bin" in caplog.text and "huggingface" in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shard", "3/2"], "not i/n"),
        (["--shard", "0/2"], "not i/n"),
        (["--shard", "half"], "not i/n"),
        (["--min_tissue", "1.5"], "between 0 and 1"),
        (["--batch_size", "0"], "at least 1"),
        (["--workers", "many"], "invalid whole number value"),
        (["--precision", "int8"], "invalid choice"),
    ],
)
def test_wrong_flags(flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        gigapath.main(["--onco", "BRCA", *flags])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--device", "gpu"], "should be auto"), (["--precision", "fp16"], "needs a GPU")],
)
def test_wrong_device(command, flags, message, caplog):
    assert command(*flags) == 2
    assert message in caplog.text


def test_slow_slides_are_logged(three, monkeypatch, caplog):
    monkeypatch.setattr(extraction, "SLOW_SLIDE", 0.0)
    with caplog.at_level(logging.INFO):
        run(three)
    assert "b.svs done: 12 tiles" in caplog.text


def test_default_workers_are_the_cores_of_the_job(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(3)), raising=False)
    assert extraction_cli._cpus() == 3

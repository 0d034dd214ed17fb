import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch

from utils.training.tracking import Tracker


class FakeRun:
    def __init__(self, settings):
        self.settings, self.id = settings, settings["id"] or "fresh-id"
        self.logged, self.exit_code = [], None

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for wandb that remembers its runs."""
    module = types.ModuleType("wandb")
    module.runs = []

    def init(**settings):
        module.runs.append(FakeRun(settings))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def read(folder):
    return pd.read_csv(folder / "metrics.csv")


# ---------------------------------------------------------------------------- metrics.csv
def test_one_row_per_epoch_with_columns_that_come_up_later(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.log(0, {"loss": 2.0})
        assert read(tmp_path).to_dict("list") == {"epoch": [0], "loss": [2.0]}
        tracker.log(1, {"loss": torch.tensor(1.5), "val_accuracy/General": np.float32(0.5)})
        tracker.log(2, {"loss": 1})
    table = read(tmp_path)
    assert list(table) == ["epoch", "loss", "val_accuracy/General"]
    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["loss"].tolist() == [2.0, 1.5, 1.0]
    assert table["val_accuracy/General"].isna().tolist() == [True, False, True]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_second_call_completes_the_row(tmp_path):
    tracker = Tracker(tmp_path)
    tracker.log(0, {"loss": 2.0})
    tracker.log(0, {"val_accuracy/General": 0.5})
    assert read(tmp_path).to_dict("list") == {"epoch": [0], "loss": [2.0], "val_accuracy/General": [0.5]}


def test_continuing_writes_the_rows_of_the_checkpoint(tmp_path):
    values = np.random.default_rng(0).random(5)
    with Tracker(tmp_path) as tracker:
        for epoch, value in enumerate(values):
            tracker.log(epoch, {"loss": value} if epoch % 2 else {"loss": value, "val_x": value / 3})
        rows = {epoch: row for epoch, row in tracker.rows.items() if epoch <= 2}
    with Tracker(tmp_path, rows=rows) as tracker:
        assert tracker.history()["epoch"].tolist() == read(tmp_path)["epoch"].tolist() == [0, 1, 2]
        tracker.log(3, {"loss": 9.0, "new": 1.0})
    table = pd.read_csv(tmp_path / "metrics.csv", float_precision="round_trip")
    assert table["epoch"].tolist() == [0, 1, 2, 3]
    assert table["loss"].tolist() == [*values[:3], 9.0]  # to the last bit
    assert table["val_x"].dropna().tolist() == [values[0] / 3, values[2] / 3]
    assert table["new"].tolist()[3] == 1.0 and list(rows) == [0, 1, 2]


@pytest.mark.parametrize("content", [None, "", "epoch,loss\nx,1\n"])
def test_a_lost_or_damaged_file_is_written_again(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    Tracker(tmp_path, rows={0: {"loss": 0.1}})
    assert read(tmp_path).to_dict("list") == {"epoch": [0], "loss": [0.1]}


def test_a_silent_tracker_only_remembers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with Tracker(tmp_path / "run", "online", rows={0: {"loss": 2.0}}, silent=True) as tracker:
        tracker.log(1, {"loss": 1.0})
        assert tracker.plot() is None and tracker.rows == {0: {"loss": 2.0}, 1: {"loss": 1.0}}
    assert not (tmp_path / "run").exists()


def test_a_new_run_starts_anew(tmp_path, caplog):
    Tracker(tmp_path).log(7, {"loss": 1.0})
    Tracker(tmp_path).log(0, {"loss": 2.0})
    assert read(tmp_path)["epoch"].tolist() == [0]
    assert "metrics.csv of an earlier run is replaced" in caplog.text


def test_epochs_do_not_go_back(tmp_path):
    tracker = Tracker(tmp_path)
    tracker.log(3, {"loss": 1.0})
    with pytest.raises(ValueError, match="epoch 2 after epoch 3"):
        tracker.log(2, {"loss": 1.0})


@pytest.mark.parametrize("value", ["high", None, [1.0]])
def test_metrics_are_numbers(tmp_path, value):
    with pytest.raises(TypeError, match="'loss' is no number"):
        Tracker(tmp_path).log(0, {"loss": value})


def test_nan_is_an_empty_cell(tmp_path):
    Tracker(tmp_path).log(0, {"loss": float("nan"), "lr": 0.1})
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["epoch,loss,lr", "0,,0.1"]


def test_curves(tmp_path):
    tracker = Tracker(tmp_path)
    assert tracker.plot() is None
    tracker.log(0, {"loss": 1.0})
    assert tracker.plot() == tmp_path / "figures" / "training_curves.png"
    assert (tmp_path / "figures" / "training_curves.png").stat().st_size > 1000


# ---------------------------------------------------------------------------- wandb
def test_disabled_never_imports_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    with Tracker(tmp_path, "disabled") as tracker:
        tracker.log(0, {"loss": 1.0})


def test_missing_wandb_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install wandb, or use --wandb_mode disabled"):
        Tracker(tmp_path, "offline")


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'on' should be one of disabled, offline, online"):
        Tracker(tmp_path, "on")


def test_metrics_are_forwarded(tmp_path, wandb):
    with Tracker(tmp_path / "run", "offline", config={"lr": 1e-4}, project="demo") as tracker:
        tracker.log(0, {"loss": 1.0, "val_x": float("nan")})
        tracker.log(1, {"loss": 0.5})
    (run,) = wandb.runs
    assert run.logged == [(0, {"loss": 1.0}), (1, {"loss": 0.5})]
    assert run.exit_code == 0
    assert run.settings["mode"] == "offline"
    assert run.settings["config"] == {"lr": 1e-4}
    assert (run.settings["project"], run.settings["name"]) == ("demo", "run")


def test_an_error_ends_the_wandb_run_as_failed(tmp_path, wandb):
    with pytest.raises(RuntimeError, match="stop"), Tracker(tmp_path, "online"):
        raise RuntimeError("stop")
    assert wandb.runs[0].exit_code == 1


def test_continuing_goes_on_with_the_same_wandb_run(tmp_path, wandb):
    Tracker(tmp_path, "offline").close()
    Tracker(tmp_path, "offline", rows={}).close()
    Tracker(tmp_path, "offline").close()
    assert [run.settings["id"] for run in wandb.runs] == [None, "fresh-id", None]
    assert (tmp_path / "wandb_id.txt").read_text() == "fresh-id"

"""Several processes on one machine (gloo): what they tell each other, and that they train as one does."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import train_modaltune
from tests.forked import finish, run_ranks, start_ranks
from tests.small_cohort import MODEL_CONFIG, make_small_cohort
from utils import constants
from utils.evaluation.embeddings import Embeddings
from utils.training import checkpoint
from utils.training.distributed import Group, process_group
from utils.training.trainer import BEST_WEIGHTS, LAST_CHECKPOINT, Trainer

pytestmark = [pytest.mark.usefixtures("quick_runs"), pytest.mark.filterwarnings("ignore:.*fork.*")]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Nine training cases: no multiple of two. No dropout, whose masks differ between processes."""
    cohort = make_small_cohort(tmp_path_factory.mktemp("cohort"), train=9, val=5, test=4)
    config = json.loads(json.dumps(MODEL_CONFIG))
    config["slide_encoder"] |= {"dropout": 0.0, "drop_path_rate": 0.0}
    config["gene_encoder"]["dropout"] = 0.0
    cohort.model_config.write_text(json.dumps(config | {"drop_path_rate": 0.0}))
    return cohort


# ---------------------------------------------------------------------------- one process
def test_alone_nothing_is_exchanged():
    group = Group()
    assert group.is_main and group.share(range(5)) == range(5) and group.rounds(5) == 5
    assert group.sum(1, True) == [1.0, 1.0] and group.gather("x") == ["x"]
    assert group.interleave([1, 2, 3]) == [1, 2, 3] and group.on_main(lambda: 7) == 7
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))]
    assert not group.sum_gradients(parameters)
    parameters[1].grad = torch.ones(1)
    assert group.sum_gradients(parameters) and parameters[0].grad is None


def test_without_a_launcher_there_is_one_process(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with process_group() as group:
        assert group == Group()


def test_a_half_described_launch_is_refused(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "1")
    with (
        pytest.raises(ValueError, match=r"WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not.*torchrun"),
        process_group(),
    ):
        pass


# ---------------------------------------------------------------------------- three processes
def exchange(folder: Path) -> None:
    with process_group() as group:
        rank = group.rank
        seen = {
            "sum": group.sum(rank, 1),
            "gather": group.gather({"rank": rank}),
            "order": [group.interleave(list(group.share(range(n)))) for n in (1, 2, 3, 7)],
            "main": group.on_main(lambda: f"from {rank}"),
        }
        parameters = [nn.Parameter(torch.full((2,), float(rank))) for _ in range(3)]
        parameters[0].grad = torch.full((2,), 10.0**rank)
        if rank == 1:
            parameters[1].grad = torch.tensor([1.0, 2.0])
        seen["any"] = group.sum_gradients(parameters)
        seen["gradients"] = [None if p.grad is None else p.grad.tolist() for p in parameters]
        module = nn.BatchNorm1d(2)
        module.weight.data.fill_(rank)
        module.running_mean.fill_(rank)
        group.equalise(module)
        seen["equal"] = [module.weight.tolist(), module.running_mean.tolist()]
        try:
            group.on_main(lambda: Path("/nowhere/file").read_text())
        except (FileNotFoundError, RuntimeError) as error:
            seen["error"] = f"{type(error).__name__}: {error}"
        (folder / f"{rank}.json").write_text(json.dumps(seen))


def test_what_processes_tell_each_other(tmp_path):
    assert run_ranks(3, lambda: exchange(tmp_path)) == [0, 0, 0]
    for rank in range(3):
        seen = json.loads((tmp_path / f"{rank}.json").read_text())
        assert seen["sum"] == [3.0, 3.0] and seen["gather"] == [{"rank": r} for r in range(3)]
        assert seen["order"] == [list(range(n)) for n in (1, 2, 3, 7)] and seen["main"] == "from 0"
        assert seen["any"] and seen["gradients"] == [[111.0, 111.0], [1.0, 2.0], None]
        assert seen["equal"] == [[0.0, 0.0], [0.0, 0.0]]
        kind = "RuntimeError: the first process stopped: " if rank else ""
        assert seen["error"].startswith(kind + "FileNotFoundError") and "/nowhere/file" in seen["error"]


# ---------------------------------------------------------------------------- whole runs
def embeddings(folder: Path, split: str) -> Embeddings:
    return Embeddings.load(folder / "seed_0" / "data" / f"{split}_embeddings.npz")


@pytest.fixture(scope="module")
def alone(cohort, tmp_path_factory, quick_runs):
    """One process that accumulates over four cases."""
    output = tmp_path_factory.mktemp("alone") / "run"
    train_modaltune.main(cohort.flags(output, gc=4))
    return output


@pytest.mark.parametrize(("size", "gc"), [(2, 2), (4, 1)])
def test_processes_train_as_one_does(alone, cohort, tmp_path, size, gc):
    assert run_ranks(size, lambda: train_modaltune.main(cohort.flags(tmp_path, gc=gc))) == [0] * size
    one, many = (pd.read_csv(folder / "seed_0" / "metrics.csv") for folder in (alone, tmp_path))
    np.testing.assert_allclose(many.loss, one.loss, rtol=1e-5)
    np.testing.assert_allclose(many.lr, one.lr)
    # Single weights may differ: AdamW steps by the learning rate wherever a gradient is nothing but rounding.
    for split in constants.SPLITS:
        a, b = embeddings(alone, split), embeddings(tmp_path, split)
        assert a.case_ids == b.case_ids and a.labels.tolist() == b.labels.tolist()
        np.testing.assert_allclose(b.vectors, a.vectors, atol=1e-5)
    files = {p.relative_to(tmp_path) for p in tmp_path.rglob("*")}
    assert files == {p.relative_to(alone) for p in alone.rglob("*")}


@pytest.mark.parametrize("size", [2, 3])
def test_the_same_weights_give_the_same_embeddings(alone, cohort, tmp_path, size):
    """Any number of processes: every case once, in the order of one process, the same bits."""
    flags = cohort.flags(tmp_path, eval_only=True, eval_weights=alone, gc=4)
    assert run_ranks(size, lambda: train_modaltune.main(flags)) == [0] * size
    for split in constants.SPLITS:
        a, b = embeddings(alone, split), embeddings(tmp_path, split)
        assert a.case_ids == b.case_ids and np.array_equal(a.vectors, b.vectors)
    assert (alone / "seed_0" / "report.csv").read_text() == (tmp_path / "seed_0" / "report.csv").read_text()


def interrupted_run(flags: list[str], after: int | None) -> None:
    """Trains; the last process gets a signal when it has accumulated ``after`` cases."""
    accumulate, seen = Trainer._accumulate, []

    def count(self, case, epoch):
        seen.append(case.case_id)
        if len(seen) == after and self.group.rank == self.group.size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return accumulate(self, case, epoch)

    Trainer._accumulate = count
    train_modaltune.main(flags)


def test_a_signal_to_one_stops_all_and_they_continue_bit_for_bit(cohort, tmp_path):
    whole, parts = (cohort.flags(tmp_path / name, gc=2) for name in ("whole", "parts"))
    assert run_ranks(2, lambda: train_modaltune.main(whole)) == [0, 0]
    assert run_ranks(2, lambda: interrupted_run(parts, 3)) == [75, 75]
    state = checkpoint.load(tmp_path / "parts" / "seed_0" / LAST_CHECKPOINT)
    assert [p["done"] for p in state["processes"]] == [3, 3]
    assert any(g is not None and g.any() for g in state["processes"][1]["gradients"])
    with pytest.raises(ValueError, match=r"'processes': \(2, 1\)"):
        train_modaltune.main(parts)
    assert run_ranks(2, lambda: train_modaltune.main(parts)) == [0, 0]
    for name in (BEST_WEIGHTS, LAST_CHECKPOINT):
        a, b = (
            checkpoint.load(tmp_path / folder / "seed_0" / name)["model"] for folder in ("whole", "parts")
        )
        assert all(torch.equal(a[key], b[key]) for key in a)
    a, b = ((tmp_path / folder / "seed_0" / "metrics.csv").read_text() for folder in ("whole", "parts"))
    assert a == b


def test_all_stop_where_one_cannot_go_on(cohort, tmp_path):
    """Too many skipped cases in one process stop both."""

    def spoiled() -> None:
        accumulate = Trainer._accumulate

        def fail(self, case, epoch):
            if case.case_id == "case-3":
                case = case.to("cpu")
                case.text.fill_(torch.nan)
            return accumulate(self, case, epoch)

        Trainer._accumulate = fail
        train_modaltune.main(cohort.flags(tmp_path, max_skipped=0))

    assert run_ranks(2, spoiled) == [1, 1]
    assert not (tmp_path / "results.csv").exists()


def test_a_killed_process_ends_the_others(cohort, tmp_path):
    processes = start_ranks(2, lambda: train_modaltune.main(cohort.flags(tmp_path, num_epochs=500)))
    while not (tmp_path / "seed_0" / LAST_CHECKPOINT).exists():
        time.sleep(0.01)
    processes[1].kill()
    assert finish(processes[1]) == -signal.SIGKILL and finish(processes[0]) == 1

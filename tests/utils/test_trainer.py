"""The training loop on a model of one layer: what it optimises, what it keeps, and how it continues."""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from utils import checkpoint
from utils.distillation import TextDistillation
from utils.precision import Precision
from utils.schedule import WarmupCosine
from utils.tracking import Tracker
from utils.trainer import BEST_WEIGHTS, LAST_CHECKPOINT, Trainer, TrainingOptions, set_seed

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that wait for each other take ten times as long as such small products themselves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Toy(nn.Module):
    """A frozen layer, dropout, and a layer that learns."""

    def __init__(self, dropout=0.3):
        super().__init__()
        self.backbone = nn.Linear(10, 8).requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 15)

    def forward(self, case):
        return self.head(self.dropout(self.backbone(case.features).mean(dim=0))).reshape(3, 5)


class Cases(list):
    """Stands for a dataset."""

    name = "train"

    @property
    def sites(self):
        return [case.project_id for case in self]

    def set_epoch(self, epoch):
        self.epoch = epoch


class Scripted:
    """An evaluator that gives the scores it was told, one per validation."""

    key = "score"

    def __init__(self, scores=()):
        self.scores, self.seen = list(scores), []

    def validate(self, train, val):
        self.seen.append((train, val))
        return {"score": self.scores[len(self.seen) - 1] if self.scores else float(len(self.seen))}

    def score(self, metrics):
        return (metrics["score"],)


class Notebook:
    """A tracker that only remembers."""

    def __init__(self):
        self.rows, self.plots = {}, 0

    def log(self, epoch, metrics):
        self.rows[epoch] = dict(metrics)

    def plot(self):
        self.plots += 1


@pytest.fixture
def cases(make_case):
    return Cases(make_case(6, seed=seed) for seed in range(6))


@pytest.fixture
def make_trainer(tmp_path):
    def make(folder="run", scores=(), dropout=0.3, use_amp=False, **options):
        options = TrainingOptions(**{"num_epochs": 3, "lr": 1e-2, **options})
        set_seed(options.seed)
        model, objective = Toy(dropout), TextDistillation(5)
        precision = Precision(CPU, use_amp)
        folder = tmp_path / folder
        return Trainer(model, objective, Scripted(scores), folder, options, CPU, precision, {"name": "toy"})

    return make


def fit(trainer, cases, tracker=None, first=0):
    tracker = tracker or Notebook()
    trainer.fit(cases, Cases(cases[:4]), Cases(cases[4:]), tracker, first)
    return tracker


# ---------------------------------------------------------------------------- optimisation
def test_the_loss_falls_and_frozen_weights_stay(make_trainer, cases):
    trainer = make_trainer(dropout=0.0, num_epochs=12)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    rows = fit(trainer, cases).rows
    losses = [rows[epoch]["loss"] for epoch in range(12)]
    assert losses[-1] < 0.5 * losses[0]
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("backbone."), name
    assert all(torch.isfinite(torch.tensor(losses)))


def test_learning_rates_are_those_of_the_schedule(make_trainer, cases):
    rows = fit(make_trainer(num_epochs=5), cases).rows
    schedule = WarmupCosine(torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-2), 1e-2, 5)
    for epoch in range(5):
        assert rows[epoch]["lr"] == schedule.lr
        schedule.step()


def test_the_optimizer_is_the_published_one(make_trainer):
    trainer = make_trainer(weight_decay=0.25)
    (group,) = trainer.optimizer.param_groups
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.999), 0.25)
    assert {id(p) for p in group["params"]} == {id(p) for p in trainer.model.head.parameters()}


def gradient(trainer, case):
    """Gradient of the loss of one case."""
    parameters = list(trainer.model.head.parameters())
    return torch.autograd.grad(trainer.objective(trainer.model(case), case.text), parameters)


@pytest.mark.parametrize("gc", [1, 2, 3])
def test_accumulation_steps_along_the_mean_gradient(make_trainer, cases, gc):
    """One group of ``gc`` cases and plain descent at rate 1: the step is minus the mean gradient."""
    trainer = make_trainer(dropout=0.0, gc=gc)
    trainer.optimizer = torch.optim.SGD(trainer.model.head.parameters(), lr=1.0)
    group = Cases(cases[:gc])
    before = [p.detach().clone() for p in trainer.model.head.parameters()]
    gradients = [gradient(trainer, case) for case in group]
    trainer._train_epoch(group, 0)
    for k, parameter in enumerate(trainer.model.head.parameters()):
        mean = sum(g[k] for g in gradients) / gc
        torch.testing.assert_close(parameter.detach(), before[k] - mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("gc", "steps"), [(1, 6), (2, 3), (4, 2), (6, 1), (10, 1)])
def test_every_case_contributes_to_a_step(make_trainer, cases, gc, steps):
    trainer = make_trainer(gc=gc)
    taken = []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda *a, **k: taken.append(1) or step(*a, **k)
    trainer._train_epoch(cases, 0)
    assert len(taken) == steps
    assert all(p.grad is None for p in trainer.model.parameters())


def test_the_reported_loss_is_the_mean_over_cases(make_trainer, cases):
    trainer = make_trainer(dropout=0.0)
    trainer.optimizer = torch.optim.SGD(trainer.model.head.parameters(), lr=0.0)
    expected = np.mean([trainer.objective(trainer.model(c), c.text).item() for c in cases])
    assert trainer._train_epoch(cases, 0) == pytest.approx(expected, rel=1e-6)


def test_the_order_is_drawn_anew_every_epoch_and_per_seed(make_trainer, cases, monkeypatch):
    orders = {}
    original = Trainer._loader

    def record(self, dataset, order=None):
        read = [case.case_id for case in original(self, dataset, order)]
        if order is not None:
            orders.setdefault(self.options.seed, []).append(read)
        return original(self, dataset, order)

    monkeypatch.setattr(Trainer, "_loader", record)
    for seed in (0, 1):
        fit(make_trainer(f"run{seed}", seed=seed, num_epochs=4), cases)
    assert all(sorted(order) == sorted(c.case_id for c in cases) for order in orders[0])
    assert len({tuple(order) for order in orders[0] + orders[1]}) >= 7
    assert orders[0] != orders[1]


def test_the_dataset_learns_the_epoch(make_trainer, cases):
    fit(make_trainer(num_epochs=3), cases)
    assert cases.epoch == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_case(make_trainer, cases, make_case, value):
    cases[3] = make_case(6, seed=3, features=torch.full((6, 10), value))
    trainer = make_trainer()
    with pytest.raises(FloatingPointError, match=r"loss of case case-3 is nan in epoch 0.*--lr"):
        fit(trainer, cases)
    assert not (trainer.output_dir / BEST_WEIGHTS).exists()


@pytest.mark.parametrize("use_amp", [False, True])
def test_mixed_precision_trains(make_trainer, cases, use_amp):
    trainer = make_trainer(use_amp=use_amp, dropout=0.0)
    seen = []
    trainer.model.head.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    rows = fit(trainer, cases).rows
    assert set(seen) == {torch.bfloat16 if use_amp else torch.float32}
    assert rows[2]["loss"] < rows[0]["loss"]
    assert trainer.model.head.weight.dtype == torch.float32


# ---------------------------------------------------------------------------- validation
@pytest.mark.parametrize(
    ("eval_interval", "num_epochs", "epochs"),
    [(1, 3, [0, 1, 2]), (2, 5, [1, 3, 4]), (2, 4, [1, 3]), (9, 3, [2])],
)
def test_when_it_validates(make_trainer, cases, eval_interval, num_epochs, epochs):
    trainer = make_trainer(eval_interval=eval_interval, num_epochs=num_epochs)
    rows = fit(trainer, cases).rows
    assert [epoch for epoch, row in rows.items() if "score" in row] == epochs
    assert sorted(rows) == list(range(num_epochs)) and (trainer.output_dir / BEST_WEIGHTS).is_file()


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.2, 0.9, 0.5], 1), ([0.5, 0.5, 0.5], 0), ([0.1, 0.2, 0.3], 2), ([-np.inf, -np.inf, -np.inf], 0)],
)
def test_the_best_epoch_is_kept_and_ends_up_in_the_model(make_trainer, cases, scores, best):
    trainer = make_trainer(scores=scores)
    weights = []
    validate = trainer.evaluator.validate
    trainer.evaluator.validate = lambda *args: (
        weights.append(trainer.model.head.weight.detach().clone()) or validate(*args)
    )
    fit(trainer, cases)
    assert torch.equal(trainer.model.head.weight, weights[best])
    content = checkpoint.load_weights(trainer.output_dir / BEST_WEIGHTS)
    assert content["run"] == {"name": "toy", "epoch": best}
    assert torch.equal(content["model"]["head.weight"], weights[best])


def test_best_weights_hold_what_an_evaluation_needs(make_trainer, cases):
    trainer = make_trainer()
    fit(trainer, cases)
    content = checkpoint.load_weights(trainer.output_dir / BEST_WEIGHTS)
    assert set(content["model"]) == {"head.weight", "head.bias"}
    for name, value in trainer.objective.state_dict().items():
        assert torch.equal(content["objective"][name], value)
    assert any(name.startswith("projector.") for name in content["objective"])


def test_probes_see_the_plain_training_cases(make_trainer, cases):
    trainer = make_trainer(num_epochs=1)
    fit(trainer, cases)
    ((train, val),) = trainer.evaluator.seen
    assert train.case_ids == [c.case_id for c in cases[:4]] and val.case_ids == [c.case_id for c in cases[4:]]


def test_embeddings_are_made_in_evaluation_mode_and_order(make_trainer, cases):
    trainer = make_trainer()
    trainer.model.train()
    first, again = trainer.embed(cases), trainer.embed(cases)
    assert np.array_equal(first.vectors, again.vectors) and first.vectors.shape == (6, 3, 5)
    assert first.case_ids == [c.case_id for c in cases] and first.sites == ["TCGA-TEST"] * 6
    assert first.labels.tolist() == [c.label for c in cases] and first.events.tolist() == [
        c.event for c in cases
    ]
    assert first.durations.tolist() == [c.duration for c in cases]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(first.vectors[2]), trainer.model.eval()(cases[2]))


def test_embeddings_tell_who_is_complete(make_trainer, cases, make_case):
    cases[2] = make_case(6, seed=2, complete=False)
    assert make_trainer().embed(cases).complete.tolist() == [i != 2 for i in range(6)]


def test_training_goes_on_in_training_mode_after_a_validation(make_trainer, cases):
    trainer = make_trainer()
    modes = []
    trainer.model.register_forward_hook(lambda module, given, out: modes.append(module.training))
    fit(trainer, cases)
    assert modes == ([True] * 6 + [False] * 6) * 3


# ---------------------------------------------------------------------------- interruption
def interrupt(trainer, epoch):
    """Stops the trainer when it begins an epoch."""
    train = trainer._train_epoch

    def stop(dataset, current):
        if current == epoch:
            raise KeyboardInterrupt
        return train(dataset, current)

    trainer._train_epoch = stop


@pytest.mark.parametrize("stop", [1, 2, 4])
@pytest.mark.parametrize("save_interval", [1, 2])
def test_continued_equals_uninterrupted_bit_for_bit(make_trainer, cases, stop, save_interval, monkeypatch):
    monkeypatch.setattr(Tracker, "plot", lambda self: None)
    options = {"num_epochs": 5, "scores": [0.1, 0.7, 0.3, 0.6, 0.2], "save_interval": save_interval, "gc": 2}
    whole = make_trainer("whole", **options)
    fit(whole, cases, Tracker(whole.output_dir))

    first = make_trainer("parts", **options)
    interrupt(first, stop)
    with pytest.raises(KeyboardInterrupt):
        fit(first, cases, Tracker(first.output_dir))

    done = stop - stop % save_interval  # epochs a checkpoint holds
    second = make_trainer("parts", **{**options, "scores": options["scores"][done:]})
    torch.rand(17), random.random()  # another process has drawn other numbers
    if done:
        with torch.no_grad():  # what is loaded counts, not what was drawn
            second.objective.projector[0].weight.add_(1)
    start = second.resume()
    assert start == done
    fit(second, cases, Tracker(second.output_dir, resume_epoch=start - 1 if start else None), start)

    for name in ("metrics.csv", BEST_WEIGHTS, LAST_CHECKPOINT):
        assert_same_file(whole.output_dir / name, second.output_dir / name)
    for a, b in zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def assert_same_file(one: Path, other: Path):
    if one.suffix == ".csv":
        assert one.read_text() == other.read_text() and len(pd.read_csv(one)) == 5
    else:
        assert_same(checkpoint.load(one), checkpoint.load(other))


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_finished_run_trains_no_more_and_ends_with_the_best_weights(make_trainer, cases):
    trainer = make_trainer(scores=[0.9, 0.1, 0.1])
    fit(trainer, cases)
    again = make_trainer()
    interrupt(again, None)
    assert again.resume() == 3
    tracker = fit(again, cases, first=3)
    assert not tracker.rows and tracker.plots == 1
    assert torch.equal(again.model.head.weight, trainer.model.head.weight)


def test_nothing_to_resume(make_trainer):
    trainer = make_trainer()
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    assert trainer.resume() == 0
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())


def test_a_damaged_checkpoint_is_named(make_trainer, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LAST_CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(ValueError, match=LAST_CHECKPOINT):
        make_trainer().resume()


# ---------------------------------------------------------------------------- seeds
@pytest.mark.parametrize("seed", [0, 42, 12_345, 2**31])
def test_any_seed_seeds_every_generator(seed):
    draws = []
    for _ in range(2):
        set_seed(seed * 1_000_003 + 7)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    assert draws[0] == draws[1]
    set_seed(seed + 1)
    assert draws[0] != (random.random(), np.random.rand(), torch.rand(1).item())  # noqa: NPY002


def test_a_large_seed_trains(make_trainer, cases):
    fit(make_trainer(seed=20_260_101, num_epochs=1), cases)

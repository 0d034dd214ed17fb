"""The training loop on a model of one layer: what it optimises, what it keeps, and how it continues."""

import dataclasses
import itertools
import os
import random
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from utils.configuration.run_config import TrainingConfig
from utils.training import checkpoint
from utils.training.objectives import TextDistillation
from utils.training.precision import Precision
from utils.training.sampling import epoch_order
from utils.training.schedule import WarmupCosine
from utils.training.signals import STOP_SIGNALS, Interrupted
from utils.training.tracking import Tracker
from utils.training.trainer import BEST_WEIGHTS, LAST_CHECKPOINT, Trainer, set_seed

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

    def validate(self, train, val, heads=None):
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
    def make(folder="run", scores=(), dropout=0.3, use_amp=False, workers=0, **options):
        options = TrainingConfig(**{"num_epochs": 3, "lr": 1e-2, **options})
        set_seed(options.seed)
        model, objective = Toy(dropout), TextDistillation(5)
        precision = Precision(CPU, use_amp)
        folder = tmp_path / folder
        run, evaluator = {"name": "toy"}, Scripted(scores)
        return Trainer(model, objective, evaluator, folder, options, CPU, precision, run, workers=workers)

    return make


def fit(trainer, cases, tracker=None):
    tracker = tracker or Notebook()
    trainer.fit(cases, Cases(cases[:4]), Cases(cases[4:]), tracker)
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
    return torch.autograd.grad(trainer.objective(trainer.model(case), case), parameters)


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
    expected = np.mean([trainer.objective(trainer.model(c), c).item() for c in cases])
    assert trainer._train_epoch(cases, 0) == pytest.approx(expected, rel=1e-6)


def test_the_order_is_drawn_anew_every_epoch_and_per_seed(make_trainer, cases, monkeypatch):
    orders = {}
    original = Trainer._loader

    def record(self, dataset, order):
        read = [case.case_id for case in original(self, dataset, order)]
        if dataset is cases:
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


# ---------------------------------------------------------------------------- numbers that are not finite
class Spoiled(nn.Module):
    """Passes outputs on; the gradient of one case is infinite."""

    def __init__(self, model, case_id):
        super().__init__()
        self.model, self.case_id = model, case_id

    def forward(self, case):
        outputs = self.model(case)
        if case.case_id == self.case_id and outputs.requires_grad:
            outputs.register_hook(lambda gradient: gradient * torch.inf)
        return outputs


def spoil(trainer, cases, kind, position=3):
    """Makes the loss or the gradient of a case not finite."""
    if kind == "gradient":
        trainer.model = Spoiled(trainer.model, cases[position].case_id)
    else:
        cases[position] = dataclasses.replace(cases[position], text=torch.full((4, 512), float(kind)))


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
@pytest.mark.parametrize("gc", [1, 2, 4])
def test_a_case_that_is_not_finite_contributes_nothing(make_trainer, cases, kind, gc, caplog):
    """Plain descent: the step of every group is the mean over ``gc`` of the gradients of its sound cases."""
    trainer = make_trainer(dropout=0.0, gc=gc, num_epochs=1)
    parameters = list(trainer.model.head.parameters())
    trainer.optimizer = torch.optim.SGD(parameters, lr=0.1)
    expected, order = [p.detach().clone() for p in parameters], epoch_order(cases.sites, 0, 0)
    shadow = make_trainer(dropout=0.0)
    losses = []
    for start in range(0, 6, gc):
        shadow.model.head.weight.data, shadow.model.head.bias.data = expected
        sound = [cases[i] for i in order[start : start + gc] if i != 3]
        losses += [shadow.objective(shadow.model(case), case).item() for case in sound]
        gradients = [gradient(shadow, case) for case in sound]
        expected = [p - 0.1 * sum(g[k] for g in gradients) / gc for k, p in enumerate(expected)]
    spoil(trainer, cases, kind)
    assert trainer._train_epoch(cases, 0) == pytest.approx(np.mean(losses), rel=1e-5)
    for parameter, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value.detach(), rtol=1e-5, atol=1e-6)
    assert len(trainer.progress.skipped) == 1 and "case-3" in trainer.progress.skipped[0]
    assert "case-3" in caplog.text and "skipped" in caplog.text


@pytest.mark.parametrize("kind", ["nan", "gradient"])
def test_skipped_cases_are_counted_every_epoch(make_trainer, cases, kind):
    trainer = make_trainer()
    spoil(trainer, cases, kind)
    plain = Cases(c for c in cases if torch.isfinite(c.text).all())
    tracker = Notebook()
    trainer.fit(cases, plain, plain, tracker)
    assert [row["skipped"] for row in tracker.rows.values()] == [1, 1, 1]
    assert all(np.isfinite(row["loss"]) for row in tracker.rows.values())
    healthy = fit(make_trainer("healthy"), plain)
    assert [row["skipped"] for row in healthy.rows.values()] == [0, 0, 0]


@pytest.mark.parametrize(
    ("kind", "what"), [("nan", "loss of case case-3 is nan"), ("gradient", "gradient of case case-3")]
)
def test_too_many_skipped_cases_stop_the_run_with_their_list(make_trainer, cases, kind, what):
    trainer = make_trainer(max_skipped=0)
    spoil(trainer, cases, kind)
    with pytest.raises(FloatingPointError, match=rf"1 cases skipped in epoch 0.*{what}.*--lr"):
        fit(trainer, cases)
    assert not (trainer.output_dir / BEST_WEIGHTS).exists()


def test_an_epoch_without_any_sound_case_stops_the_run(make_trainer, cases):
    for position in range(6):
        spoil(make_trainer(), cases, "nan", position)
    with pytest.raises(FloatingPointError, match="6 cases skipped"):
        fit(make_trainer(max_skipped=6), cases)


def test_a_gradient_scaler_may_overflow(make_trainer, cases):
    """Steps that a scaler leaves out to find its scale are no fault of a case."""
    trainer = make_trainer()
    trainer.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    rows = fit(trainer, cases).rows
    assert [row["skipped"] for row in rows.values()] == [0, 0, 0]
    assert trainer.precision.scaler.get_scale() < 2.0**127


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
    content = checkpoint.load(trainer.output_dir / BEST_WEIGHTS)
    assert content["run"] == {"name": "toy", "epoch": best}
    assert torch.equal(content["model"]["head.weight"], weights[best])


def test_best_weights_hold_what_an_evaluation_needs(make_trainer, cases):
    trainer = make_trainer()
    fit(trainer, cases)
    content = checkpoint.load(trainer.output_dir / BEST_WEIGHTS)
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
    rows = second.resume()
    assert second.progress.epoch == done and (rows is None if done == 0 else list(rows) == list(range(done)))
    fit(second, cases, Tracker(second.output_dir, rows=rows))

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


STEPS = {"forward 0": 0, "forward 3": 3, "validation": 6 + 2, "forward 17": 3 * 6 + 6 + 2, "last": 5 * 12 - 1}


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize(
    ("forwards", "gc", "workers"),
    [(place, gc, 0) for place in STEPS.values() for gc in (1, 4)] + [(STEPS["forward 3"], 4, 1)],
)
def test_a_signal_saves_and_the_continued_run_equals_the_uninterrupted(
    make_trainer, cases, number, forwards, gc, workers, monkeypatch
):
    monkeypatch.setattr(Tracker, "plot", lambda self: None)
    options = {"num_epochs": 5, "gc": gc, "workers": workers, "max_skipped": 5}
    whole = make_trainer("whole", **options)
    fit(whole, cases, Tracker(whole.output_dir))

    first = make_trainer("parts", **options)
    seen = itertools.count()
    first.model.register_forward_hook(
        lambda *_: os.kill(os.getpid(), number) if next(seen) == forwards else None
    )
    handlers = [signal.getsignal(s) for s in STOP_SIGNALS]
    with pytest.raises(Interrupted) as stop:
        fit(first, cases, Tracker(first.output_dir))
    assert stop.value.code == 75 and handlers == [signal.getsignal(s) for s in STOP_SIGNALS]
    assert next(seen) == forwards + 1  # the case at hand was finished, no other begun

    second = make_trainer("parts", **options)
    torch.rand(17), random.random()
    rows = second.resume()
    second.evaluator.seen = [None] * len(rows)  # scores count the validations
    assert (second.progress.epoch, second.progress.done) == (forwards // 12, min(forwards % 12 + 1, 6))
    fit(second, cases, Tracker(second.output_dir, rows=rows))
    for name in ("metrics.csv", BEST_WEIGHTS, LAST_CHECKPOINT):
        assert_same_file(whole.output_dir / name, second.output_dir / name)


@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("save_interval", [1, 9])
def test_a_signal_while_probes_are_fitted(make_trainer, cases, epoch, save_interval, monkeypatch):
    """Nothing asks for signals then; the run leaves at the end of the epoch, be it the last one."""
    monkeypatch.setattr(Tracker, "plot", lambda self: None)
    options = {"scores": [0.1, 0.7, 0.3], "save_interval": save_interval}
    whole = make_trainer("whole", **options)
    fit(whole, cases, Tracker(whole.output_dir))

    first = make_trainer("parts", **options)
    validate = first.evaluator.validate

    def stopped(*parts):
        if len(first.evaluator.seen) == epoch:
            os.kill(os.getpid(), signal.SIGUSR1)
        return validate(*parts)

    first.evaluator.validate = stopped
    with pytest.raises(Interrupted):
        fit(first, cases, Tracker(first.output_dir))
    second = make_trainer("parts", **{**options, "scores": options["scores"][epoch + 1 :]})
    rows = second.resume()
    assert list(rows) == list(range(epoch + 1))
    fit(second, cases, Tracker(second.output_dir, rows=rows))
    second.embed(cases)  # a signal of the past stops nothing
    assert torch.equal(whole.model.head.weight, second.model.head.weight)
    assert_same(*(checkpoint.load(t.output_dir / LAST_CHECKPOINT) for t in (whole, second)))


def test_checkpoints_within_an_epoch(make_trainer, cases, monkeypatch):
    """With no time between them, one is written after every case; each continues where it was written."""
    saved = []
    save = checkpoint.save

    def record(path, content):
        save(path, content)
        if path.name == LAST_CHECKPOINT:
            state = checkpoint.load(path)
            saved.append(
                (state["metrics"].keys(), state["processes"][0]["epoch"], state["processes"][0]["done"])
            )

    monkeypatch.setattr(checkpoint, "save", record)
    fit(make_trainer(num_epochs=2, checkpoint_minutes=0.0), cases)
    expected = [(0, n) for n in range(1, 7)] + [(1, 0)] + [(1, n) for n in range(1, 7)] + [(2, 0)]
    assert [(epoch, done) for _, epoch, done in saved] == expected
    assert [list(rows) for rows, _, _ in saved] == [[]] * 6 + [[0]] * 7 + [[0, 1]]
    saved.clear()
    fit(make_trainer("rare", num_epochs=2), cases)
    assert [(epoch, done) for _, epoch, done in saved] == [(1, 0), (2, 0)]


def test_a_checkpoint_of_another_run_is_refused_with_the_difference(make_trainer, cases):
    trainer = make_trainer()
    trainer.fingerprint = {"arguments": {"lr": 1.0, "gc": 1}, "data": {"train_json": "abc"}}
    fit(trainer, cases)
    other = make_trainer()
    other.fingerprint = {"arguments": {"lr": 2.0, "gc": 1}, "data": {"train_json": "abd"}}
    difference = r"\{'arguments.lr': \(1.0, 2.0\), 'data.train_json': \('abc', 'abd'\)\}"
    with pytest.raises(ValueError, match=rf"{LAST_CHECKPOINT} .*{difference}.*--resume never"):
        other.resume()


def test_a_finished_run_trains_no_more_and_ends_with_the_best_weights(make_trainer, cases):
    trainer = make_trainer(scores=[0.9, 0.1, 0.1])
    fit(trainer, cases)
    again = make_trainer()
    interrupt(again, None)
    assert list(again.resume()) == [0, 1, 2]
    tracker = fit(again, cases)
    assert not tracker.rows and tracker.plots == 1
    assert torch.equal(again.model.head.weight, trainer.model.head.weight)


def test_nothing_to_resume(make_trainer):
    trainer = make_trainer()
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    assert trainer.resume() is None
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

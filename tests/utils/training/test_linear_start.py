"""Fitting the linear readout: against ridge regressions in loops, and through whole trainings."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear
from sklearn.model_selection import KFold
from torch import nn

import train_modaltune
from data_utils.cases.datasets import ModalityOptions
from models.layers.linear_readout import LinearReadout
from tests.small_cohort import MODEL_CONFIG, make_small_cohort
from utils.training import checkpoint
from utils.training.linear_start import FEWEST, FOLDS, PENALTIES, fit_readout
from utils.training.trainer import BEST_WEIGHTS

TASKS, WIDTH = 2, 3


class Model(nn.Module):
    """Reads the inputs of a case as they are."""

    def __init__(self, products=False, **widths):
        super().__init__()
        self.readout = LinearReadout(widths, TASKS, WIDTH, products).double()

    def vectors(self, case):
        return case.inputs


class Distillation:
    """The text of a case is its targets."""

    def targets(self, text):
        return text


class Cases(list):
    """Cases of a training; a copy may be given other options."""

    modalities = ModalityOptions(dropout=0.5)

    def __getitem__(self, index):
        assert not self.modalities.dropout, "nothing may be hidden"
        return super().__getitem__(index)

    def __copy__(self):
        return type(self)(self)


def make_cases(count=40, noise=0.3, absent=(), width=6):
    generator = np.random.default_rng(1)
    a, b = generator.normal(2.0, 3.0, size=(count, 4)), generator.normal(size=(count, width))
    maps = generator.normal(size=(TASKS, 4, WIDTH))
    targets = np.einsum("nd,tdo->nto", a, maps) + noise * generator.normal(size=(count, TASKS, WIDTH)) + 5.0
    cases = Cases()
    for i in range(count):
        inputs = {"a": torch.tensor(a[i]), "b": torch.tensor(b[i])}
        kept = {n: v for n, v in inputs.items() if not (n == "a" and i in absent)}
        case = SimpleNamespace(inputs=kept, text=torch.tensor(targets[i]))
        case.to = lambda device, case=case: case
        cases.append(case)
    return cases, a, b, targets


def ridge(x, y, penalty):
    """Map and intercept."""
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    x, y = x - x_mean, y - y_mean
    weight = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    return weight, y_mean - x_mean @ weight


def one_task(parts, targets):
    """Maps, means, shares and bias by the definition: the largest penalty within one standard error of the best
    for patients who are left out one after the other."""
    mean = targets.mean(axis=0)
    y, maps, left_out = targets - mean, {}, []
    for name, x in parts.items():
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        errors = []
        for penalty in PENALTIES:
            errors.append([])
            for i in range(len(x)):
                weight, intercept = ridge(np.delete(x, i, axis=0), np.delete(y, i, axis=0), penalty)
                errors[-1].append(((y[i] - x[i] @ weight - intercept) ** 2).sum())
        best = min(errors, key=sum)
        bound = np.mean(best) + np.std(best, ddof=1) / len(x) ** 0.5
        penalty = max(p for p, e in zip(PENALTIES, errors, strict=True) if np.mean(e) <= bound)
        maps[name] = ridge(x, y, penalty)[0]
        predicted = np.empty_like(y)
        for inside, outside in KFold(FOLDS, shuffle=True, random_state=0).split(x):
            weight, intercept = ridge(x[inside], y[inside], penalty)
            predicted[outside] = x[outside] @ weight + intercept
        left_out.append(predicted.ravel())
    shares = lsq_linear(np.stack(left_out, axis=1), y.ravel(), (0, np.inf), tol=1e-14).x
    return maps, shares, mean


@pytest.mark.parametrize("width", [6, 60], ids=["more patients", "more numbers"])
def test_the_readout_is_a_stack_of_ridge_regressions(width):
    cases, a, b, targets = make_cases(width=width)
    model = Model(a=4, b=width)
    fit_readout(model, Distillation(), cases)
    for task in range(TASKS):
        maps, shares, mean = one_task({"a": a, "b": b}, targets[:, task])
        scaled = {name: (x - x.mean(axis=0)) / x.std(axis=0) for name, x in (("a", a), ("b", b))}
        total = mean + sum(s * scaled[n] @ maps[n] for n, s in zip("ab", shares, strict=True))
        total /= np.sqrt((total**2).mean())
        found = np.stack([model.readout(case.inputs, [task])[0].numpy() for case in cases])
        np.testing.assert_allclose(found, total, rtol=1e-6, atol=1e-6)
        assert shares[0] > 0.9  # the modality that decides
        moved = {
            n: np.std(x @ model.readout.parts[n].weight[task].numpy().T) for n, x in (("a", a), ("b", b))
        }
        assert moved["b"] < 0.1 * moved["a"]


def test_who_lacks_a_modality_stands_at_its_mean():
    cases, a, *_ = make_cases(absent=(3, 8))
    model = Model(a=4, b=6)
    fit_readout(model, Distillation(), cases)
    known = np.delete(a, (3, 8), axis=0)
    np.testing.assert_allclose(model.readout.parts["a"].mean, known.mean(axis=0), rtol=1e-12)
    filled = a.copy()
    filled[[3, 8]] = known.mean(axis=0)
    other = Model(a=4, b=6)
    for case, row in zip(cases, filled, strict=True):
        case.inputs["a"] = torch.tensor(row)
    fit_readout(other, Distillation(), cases)
    found, expected = (m.readout({"a": torch.tensor(a[5])}, [0]) for m in (model, other))
    # The spread of the known patients alone scales the input, which moves the penalty's effect a little.
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)


def test_numbers_that_do_not_vary_say_nothing():
    cases, *_ = make_cases()
    for case in cases:
        case.inputs["b"] = case.inputs["b"].clone()
        case.inputs["b"][2] = 7.0
    model = Model(a=4, b=6)
    fit_readout(model, Distillation(), cases)
    assert torch.equal(model.readout.parts["b"].weight[..., 2], torch.zeros(TASKS, WIDTH).double())
    assert all(buffer.isfinite().all() for buffer in model.readout.buffers())


def test_sentences_that_are_missing_leave_their_patients_out(caplog):
    cases, *_ = make_cases(count=60)
    for case in list(cases)[:20]:
        case.text[0] = torch.nan
    for case in list(cases)[:50]:
        case.text[1] = torch.nan
    model = Model(a=4, b=6)
    fit_readout(model, Distillation(), cases)
    assert "10 patients have sentences of task" in caplog.text
    assert not model.readout.bias[1].any()
    known = np.stack([case.text[0].numpy() for case in list(cases)[20:]]).mean(axis=0)
    direction = model.readout.bias[0].numpy()
    np.testing.assert_allclose(
        direction / np.linalg.norm(direction), known / np.linalg.norm(known), rtol=1e-9
    )
    assert model.readout.parts["a"].weight[0].any()


@pytest.mark.parametrize("distillation", [None, Distillation()])
def test_nothing_happens_without_a_readout_or_sentences(distillation, caplog):
    cases, *_ = make_cases()
    fit_readout(nn.Linear(1, 1), distillation, cases)
    assert not caplog.text
    model = Model(a=4)
    if distillation is None:
        fit_readout(model, None, cases)
        assert "it stays zero" in caplog.text
        assert not any(buffer.any() for buffer in model.readout.buffers())


# ---------------------------------------------------------------------------- products
def test_a_product_joins_where_two_modalities_decide_together_and_nowhere_else(caplog):
    caplog.set_level("INFO")
    cases, a, b, targets = make_cases(count=120)
    c = np.random.default_rng(7).normal(size=(120, 5))
    direction, bias = np.array([1.0, -2.0, 0.5]), 4.0
    # The second task is a product of a number of a and one of b; nothing decides it alone.
    along = (a[:, 1] - 2.0) / 3.0 * b[:, 2]
    targets[:, 1] = bias + np.outer(along, direction) + 0.3 * np.random.default_rng(8).normal(size=(120, 3))
    for case, target, row in zip(cases, targets, c, strict=True):
        case.text = torch.tensor(target)
        case.inputs["c"] = torch.tensor(row)
    without, model = Model(a=4, b=6, c=5), Model(a=4, b=6, c=5, products=True)
    fit_readout(without, Distillation(), cases)
    fit_readout(model, Distillation(), cases)
    assert [r.message.partition("and ")[2] for r in caplog.records[-2:]] == ["", "a x b"]
    products = model.readout.products
    assert not (
        products["a x c"].weight.any() or products["b x c"].weight.any() or products["a x b"].weight[0].any()
    )
    for name, buffer in without.readout.state_dict().items():
        torch.testing.assert_close(
            model.readout.state_dict()[name][0], buffer[0]
        )  # the first task, as it was
    fresh = np.random.default_rng(9)
    truth, found = [], []
    for _ in range(100):
        x = {"a": fresh.normal(2.0, 3.0, size=4), "b": fresh.normal(size=6)}
        truth.append((x["a"][1] - 2.0) / 3.0 * x["b"][2])
        found.append(model.readout({n: torch.tensor(v) for n, v in x.items()}, [1])[0].numpy() @ direction)
    assert np.corrcoef(truth, found)[0, 1] > 0.9
    half = {"a": torch.tensor(a[0])}  # who lacks one side of a product has none
    np.testing.assert_allclose(
        model.readout(half, [1])[0] @ direction, products_free(model, half) @ direction
    )


def products_free(model, vectors):
    """The second task by the linear models alone."""
    part = model.readout.parts["a"]
    return (model.readout.bias[1] + part.weight[1] @ (vectors["a"] - part.mean)).numpy()


# ---------------------------------------------------------------------------- through whole trainings
@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_runs):
    cohort = make_small_cohort(tmp_path_factory.mktemp("cohort"), train=FEWEST + 2, without_genes=(3,))
    config = cohort.root / "readout.json"
    config.write_text(json.dumps({**MODEL_CONFIG, "linear_readout": True, "readout_products": True}))
    output = cohort.root / "run"
    flags = {"model_config": config, "missing_modalities": "learned", "num_epochs": 1, "num_tasks": 1}
    train_modaltune.main(cohort.flags(output, **flags))
    return cohort, output, flags


def vectors_of(folder):
    with np.load(folder / "data" / "test_embeddings.npz") as content:
        return content["vectors"]


def test_the_readout_is_part_of_the_weights(trained):
    cohort, output, flags = trained
    weights = output / "seed_0" / BEST_WEIGHTS
    state = checkpoint.load_weights(weights)["model"]
    assert state["readout.parts.genes.weight"].any() or state["readout.parts.images.weight"].any()
    again = cohort.root / "again"
    train_modaltune.main(cohort.flags(again, **flags, eval_only=True, eval_weights=weights))
    np.testing.assert_allclose(vectors_of(again / "seed_0"), vectors_of(output / "seed_0"), atol=1e-6)

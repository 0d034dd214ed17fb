"""Attributions against a Riemann sum in float64, and against what they must add up to."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.aggregators import DataSpec, build_aggregator
from tests.structures import structures
from utils.explain.attribution import PATCHES, explain_case, integrated_gradients
from utils.explain.targets import Linear, LinearTarget

ALL = "longnetvit_gene_clinical_vectors_adapter"


@pytest.fixture(params=[False, True], ids=["pathways", "pathways and a linear map"])
def model(request, tiny_config, pathways, randomise):
    tiny_config["gene_encoder"]["linear"] = request.param
    built = build_aggregator(ALL, tiny_config, DataSpec(structures(pathways, [3, 6]), 3))
    return randomise(built, scale=0.3).double().eval()


@pytest.fixture
def target():
    generator = np.random.default_rng(0)
    return LinearTarget(
        "risk", "risk", 1, Linear(*generator.normal(size=(1, 7)), np.ones(()), np.zeros(7), np.ones(7))
    )


@pytest.fixture
def baselines():
    generator = torch.Generator().manual_seed(1)
    shapes = {PATCHES: (10,), "genes": (10,), "clinical": (5,), "vectors": (3, 6)}
    return {name: 0.1 * torch.randn(shape, generator=generator).double() for name, shape in shapes.items()}


def riemann(model, case, target, baselines, chosen, steps):
    """The definition, with central differences instead of gradients for the chosen genes."""
    genes, start = case.inputs["genes"], baselines["genes"]
    total = dict.fromkeys(chosen, 0.0)

    def at(alpha, gene, change):
        inputs = {n: baselines[n] + alpha * (v - baselines[n]) for n, v in case.inputs.items()}
        inputs["genes"] = inputs["genes"].clone()
        inputs["genes"][gene] += change
        features = baselines[PATCHES] + alpha * (case.features - baselines[PATCHES])
        with torch.no_grad():
            output = model(replace(case, features=features, inputs=inputs), [target.task])[0]
        return float(target(output))

    for step in range(steps):
        alpha = (step + 0.5) / steps
        for gene in chosen:
            slope = (at(alpha, gene, 1e-5) - at(alpha, gene, -1e-5)) / 2e-5
            total[gene] += slope / steps * float(genes[gene] - start[gene])
    return total


def test_genes_are_the_riemann_sum_and_the_sum_over_their_pathways(
    model, make_case, target, baselines, pathways
):
    case = make_case(length=9, dtype=torch.float64)
    found = explain_case(model, case, target, baselines, structures(pathways, [3, 6]), steps=16)
    names = np.array(found.entries["genes"].names)
    genes = structures(pathways, [3, 6])["genes"]["genes"]
    counts = [int((names == gene).sum()) for gene in genes]
    chosen = [counts.index(1), counts.index(max(counts))]
    assert max(counts) > 1
    expected = riemann(model, case, target, baselines, chosen, steps=12)
    for gene, value in expected.items():
        found_here = found.inputs["genes"][names == genes[gene]].sum()
        assert found_here == pytest.approx(value, rel=2e-2, abs=1e-5)
    assert len(found.entries["genes"].groups) == sum(map(len, pathways))


def test_everything_adds_up_to_the_change_of_the_target(model, make_case, target, baselines, pathways):
    found = explain_case(
        model, make_case(dtype=torch.float64), target, baselines, structures(pathways, [3, 6])
    )
    assert found.gap < 0.01
    total = found.patches.sum() + sum(value.sum() for value in found.inputs.values())
    assert total == pytest.approx(found.value - found.baseline_value, rel=0.01)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.inputs.keys() == {"genes", "clinical", "vectors"} == found.without.keys() - {PATCHES}


def test_what_is_left_out_is_the_change_of_the_target(model, make_case, target, baselines, pathways):
    case = make_case(dtype=torch.float64)
    found = explain_case(model, case, target, baselines, structures(pathways, [3, 6]), steps=4, max_steps=4)
    with torch.no_grad():
        changed = replace(case, inputs={**case.inputs, "clinical": baselines["clinical"]})
        values = [float(target(model(c, [1])[0])) for c in (case, changed)]
    assert found.value == pytest.approx(values[0])
    assert found.without["clinical"] == pytest.approx(values[0] - values[1])


def test_the_model_is_as_before(model, make_case, target, baselines, pathways):
    case = make_case(dtype=torch.float64)
    before = model(case)
    explain_case(model, case, target, baselines, structures(pathways, [3, 6]), steps=2, max_steps=2)
    assert torch.equal(model(case), before)
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_passes_are_counted(model, make_case, target, baselines, pathways):
    passes = []
    model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    found = explain_case(
        model,
        make_case(dtype=torch.float64),
        target,
        baselines,
        structures(pathways, [3, 6]),
        steps=20,
        max_steps=20,
    )
    assert found.steps == 20
    assert sum(passes) == 20  # forwards and backwards
    assert len(passes) - sum(passes) == 6  # forwards: case, baseline, and each of four parts left out


def test_steps_are_added_until_the_gap_is_small():
    inputs, baselines = {"x": torch.tensor([9.0]).double()}, {"x": torch.tensor([0.0]).double()}

    def wave(point):
        return torch.sin(20 * point["x"]).sum()

    found = integrated_gradients(wave, inputs, baselines, steps=4, max_steps=1024)
    assert found.steps > 4
    assert found.gap < 0.01
    poor = integrated_gradients(wave, inputs, baselines, steps=4, max_steps=4)
    assert poor.steps == 4
    assert poor.gap > 0.01


def test_steps_are_added_where_the_function_bends():
    """A step of one variable and a parabola of the other: attributions are known, and 300 even steps miss the step."""
    inputs = {name: torch.tensor([1.0]).double() for name in "xy"}
    baselines = {name: torch.tensor([0.0]).double() for name in "xy"}

    def bent(point):
        return torch.tanh(2000 * (point["x"] - 0.2468)).sum() / 2 + 3 * point["y"].square().sum()

    found = integrated_gradients(bent, inputs, baselines, steps=20, max_steps=320, tolerance=1e-3)
    assert found.gap < 1e-3
    assert float(found.attributions["x"]) == pytest.approx(1, abs=0.005)
    assert float(found.attributions["y"]) == pytest.approx(3, abs=1e-9)
    even = integrated_gradients(bent, inputs, baselines, steps=320, max_steps=320)
    assert even.gap > 0.01


def test_a_change_that_cancels_out_is_judged_by_the_attributions():
    """Float32 rounds a change of 1e-6 between parts of 1 each; the gap of the change alone never closes."""
    inputs = {name: torch.tensor([1.0]).double() for name in "xy"}
    baselines = {name: torch.tensor([0.0]).double() for name in "xy"}

    def rounded(point):
        value = (point["x"].sin() - point["y"].sin() + 1e-6 * point["x"]).sum()
        return value + 1e-7 * (value.detach() > 5e-7)  # a rounding that has no gradient

    found = integrated_gradients(rounded, inputs, baselines)
    assert found.steps == 20 and found.gap == pytest.approx(1e-7 / (0.01 * 2 * np.sin(1)), rel=1e-3)


def test_training_mode_is_refused(model, make_case, target, baselines, pathways):
    with pytest.raises(ValueError, match="eval"):
        explain_case(
            model.train(), make_case(dtype=torch.float64), target, baselines, structures(pathways, [3, 6])
        )

"""Weights cast together, against autocast, which casts each of them by itself."""

import pytest
import torch
from torch import nn

from models.aggregators import DataSpec, build_aggregator
from models.encoders import slide_encoder, slide_encoders
from models.weight_copies import LAYERS, cast_together
from tests.structures import structures

HALF = torch.bfloat16


@pytest.fixture(params=list(slide_encoders()))
def model(request, tiny_configs, pathways, randomise):
    """Every optional part that has weights: a linear map of all genes, LoRA beside the frozen layers."""
    torch.manual_seed(0)
    config = tiny_configs[request.param]
    config |= {
        "gene_encoder": {**config["gene_encoder"], "norm": True, "linear": True},
        "lora": {"rank": 2, "alpha": 4.0, "targets": ["fc1"]},
    }
    name = f"{slide_encoder(request.param).prefix}_gene_clinical_adapter"
    return randomise(build_aggregator(name, config, DataSpec(structures(pathways), 3)), scale=0.2)


def step(model, case, together, backward_inside=False):
    """Outputs and gradients of a training step under autocast, with dropout."""
    torch.manual_seed(3)
    model.train().zero_grad()
    with torch.autocast("cpu", HALF):
        if together:
            with cast_together(model, HALF):
                out = model(case)
                if backward_inside:
                    out.float().square().sum().backward()
        else:
            out = model(case)
    if not backward_inside:
        out.float().square().sum().backward()
    return [out.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]


def equal(one, other):
    pairs = list(zip(one, other, strict=True))
    assert all((a is None) == (b is None) for a, b in pairs)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs if a is not None)


@pytest.mark.parametrize("checkpointing", ["off", "on"])
@pytest.mark.parametrize("backward_inside", [False, True])
def test_the_same_bits(model, make_case, checkpointing, backward_inside):
    case = make_case()
    model.activation_checkpointing = checkpointing
    expected = step(model, case, together=False)
    assert sum(grad is not None and bool(grad.any()) for grad in expected) > 50
    assert equal(step(model, case, together=True, backward_inside=backward_inside), expected)


def test_gradients_add_up_over_cases(model, make_case):
    cases = [make_case(seed=seed) for seed in range(2)]
    sums = []
    for together in (False, True):
        step(model, cases[0], together)
        torch.manual_seed(4)
        with torch.autocast("cpu", HALF):
            if together:
                with cast_together(model, HALF):
                    out = model(cases[1])
            else:
                out = model(cases[1])
        out.float().square().sum().backward()
        sums.append([None if p.grad is None else p.grad.clone() for p in model.parameters()])
    assert equal(*sums)


def test_evaluation_gives_the_same_bits(model, make_case):
    case = make_case()
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", HALF):
        expected = model(case)
        with cast_together(model, HALF):
            assert torch.equal(model(case), expected)


def casts(function):
    """How often something is cast."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return sum(event.count for event in profile.key_averages() if event.key == "aten::_to_copy")


def test_the_adapter_casts_no_weight_by_itself(model, make_case):
    """Two casts a weight less: forward and backward."""
    case = make_case()
    adapter = [m for part in (model.interactions, model.prompt_selfattention) for m in part.modules()]
    weights = sum(len(m._parameters) for m in adapter if isinstance(m, LAYERS))
    saved = casts(lambda: step(model, case, together=False)) - casts(lambda: step(model, case, together=True))
    assert saved > 1.5 * weights > 100


def test_frozen_and_low_rank_weights_are_left_alone(model):
    before = {name: id(parameter) for name, parameter in model.backbone.named_parameters()}
    with cast_together(model, HALF):
        assert {name: id(parameter) for name, parameter in model.backbone.named_parameters()} == before


def marked(*layers):
    module = nn.Sequential(*layers)
    module.casts_weights_together = True
    return module


def test_only_what_enters_products_is_cast():
    class Own(nn.Linear):
        """May do something else with its weight."""

    module = marked(nn.Linear(2, 2), nn.LayerNorm(2), Own(2, 2), nn.Linear(2, 2).requires_grad_(False))
    with cast_together(nn.Sequential(module, nn.Linear(2, 2)), HALF):
        dtypes = [layer.weight.dtype for layer in module]
    assert dtypes == [HALF, torch.float32, torch.float32, torch.float32]


def test_modules_that_do_not_ask_for_it_are_left_alone():
    layer = nn.Linear(2, 2)
    with cast_together(layer, HALF):
        assert layer.weight.dtype == torch.float32


def test_compiled_modules_are_left_alone():
    module = marked(nn.Linear(2, 2))
    module.compile()
    with cast_together(module, HALF):
        assert module[0].weight.dtype == torch.float32


def test_weights_are_back_after_an_error():
    module = marked(nn.Linear(2, 2))
    weight = module[0].weight
    with pytest.raises(RuntimeError, match="torn"), cast_together(module, HALF):
        assert module[0].weight.dtype == HALF
        raise RuntimeError("torn")
    assert module[0].weight is weight and isinstance(weight, nn.Parameter)


def test_weights_that_nothing_reads_have_no_gradient():
    module = marked(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.autocast("cpu", HALF), cast_together(module, HALF):
        module[0](torch.ones(1, 2)).float().sum().backward()
    assert module[0].weight.grad.dtype == torch.float32
    assert module[1].weight.grad is None

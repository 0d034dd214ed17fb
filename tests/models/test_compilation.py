"""Compiled parts against the model without; they must compile for every number of patches at once."""

import copy
import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from models import compilation
from models.aggregators import DataSpec, build_aggregator
from models.encoders import slide_encoder, slide_encoders
from models.prov_gigapath import dropout
from models.vitadapter.interaction import DropPath
from tests.structures import structures
from utils import constants
from utils.training.checkpoint import load_trainable, trainable_state

# After two ordinary ones those that equal other dimensions: tasks, gene tokens, modality tokens, width.
LENGTHS = (23, 24, 3, 4, 5, 48, 2, *range(6, 19))


def compiler_is_missing() -> str:
    try:
        compilation.check_compiler("cpu")
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def compiler():
    if reason := compiler_is_missing():
        pytest.skip(reason)


@pytest.fixture(params=list(slide_encoders()))
def encoder(request):
    return request.param


@pytest.fixture
def model(encoder, tiny_configs, pathways, randomise):
    """One stage of two blocks and one extractor: what compiles once is enough."""
    torch.manual_seed(0)
    config = tiny_configs[encoder]
    config |= {
        "slide_encoder": {**config["slide_encoder"], "depth": 2},
        "interaction_indexes": [[0, 1]],
        "use_extra_extractor": False,
    }
    model = build_aggregator(
        f"{slide_encoder(encoder).prefix}_gene_adapter", config, DataSpec(structures(pathways), 3)
    )
    return randomise(model, scale=0.2)


def step(model, case, mode):
    """Outputs and gradients; with dropout, whose masks compiled and plain models share."""
    torch.manual_seed(3)
    model.train(mode == "train").zero_grad()
    if mode == "eval":
        with torch.inference_mode():
            return [model(case)]
    out = model(case)
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)]


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


# ---------------------------------------------------------------------------- which parts
def test_parts_are_disjoint_and_draw_no_random_numbers(model):
    for device in ("cpu", "cuda"):
        parts = compilation.parts(model, device)
        modules = [id(module) for part in parts for module in part.modules()]
        assert parts and len(modules) == len(set(modules))
        for part in parts:
            for module in part.modules():
                assert not isinstance(module, (DropPath, dropout.DropPath)) and getattr(module, "p", 0) == 0
                assert not isinstance(module, nn.Dropout) or module.p == 0


def test_every_slide_encoder_names_its_feed_forward_networks(model):
    assert len(model.backbone.feed_forwards) == len(model.backbone.blocks)
    assert set(model.backbone.feed_forwards) <= set(compilation.parts(model, "cuda"))
    assert not set(model.backbone.feed_forwards) & set(compilation.parts(model, "cpu"))


# ---------------------------------------------------------------------------- equality
def test_compiled_parts_change_nothing_whatever_the_length(compiler, model, make_case, monkeypatch):
    """The parts of GPUs, of which those of CPUs are some."""
    torch._dynamo.reset()
    for module in model.modules():
        if isinstance(module, dropout.DropPath):
            module.drop_prob = 0.0  # a block may see one copy, of which there is a version of its own
    compiled = copy.deepcopy(model)
    everything = compilation.parts(compiled, "cuda")
    monkeypatch.setattr(compilation, "parts", lambda model, device: everything)
    compilation.compile_parts(compiled, "cpu")
    assert list(compiled.state_dict()) == list(model.state_dict())

    known = None
    for number, length in enumerate(LENGTHS):
        case = make_case(length, seed=length)
        for mode in ("train", "eval"):
            compiled.activation_checkpointing = ("off", "on")[number % 2]
            for ours, theirs in zip(step(compiled, case, mode), step(model, case, mode), strict=True):
                assert (ours - theirs).norm() <= 1e-5 * theirs.norm() + 1e-6
        if number == 1:
            known = graphs()
    assert known and graphs() == known

    load_trainable(model, trainable_state(compiled), "weights.pt")
    assert torch.equal(step(model, case, "eval")[0], step(copy.deepcopy(model), case, "eval")[0])


def test_a_part_that_cannot_be_compiled_is_an_error(compiler, model, make_case, monkeypatch):
    class Breaks(nn.Module):
        def forward(self, patches, c, pos):
            torch._dynamo.graph_break()
            return patches

    model.interactions[0].injector = Breaks()
    monkeypatch.setattr(compilation, "parts", lambda model, device: [model.interactions[0].injector])
    compilation.compile_parts(model, "cpu")
    with pytest.raises(torch._dynamo.exc.Unsupported):
        model(make_case())


# ---------------------------------------------------------------------------- machines that cannot compile
@pytest.mark.parametrize(
    ("device", "disabled", "triton", "expected"),
    [
        ("cpu", False, False, None),
        ("cuda", False, True, None),
        ("cuda", False, False, "the package triton is missing"),
        ("cpu", True, True, "TORCH_COMPILE_DISABLE"),
        ("cuda", True, True, "TORCH_COMPILE_DISABLE"),
    ],
)
def test_obstacles(device, disabled, triton, expected, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if triton else None)
    with torch._dynamo.config.patch(disable=disabled):
        reason = compilation.obstacle(device)
    assert reason is None if expected is None else expected in reason


def test_where_compilation_is_switched_off_the_flag_is_an_error(model):
    compilation.check_compiler.cache_clear()
    message = r"--compile: .*TORCH_COMPILE_DISABLE.*leave --compile out"
    with torch._dynamo.config.patch(disable=True), pytest.raises(RuntimeError, match=message):
        compilation.compile_parts(model, "cpu")
    assert all(module._compiled_call_impl is None for module in model.modules())


def test_without_a_compiler_the_message_says_what_is_missing(tmp_path):
    """In a process of its own, whose compiler is nowhere."""
    code = "from models.compilation import check_compiler; check_compiler('cpu')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        cwd=constants.REPO_ROOT,
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith(
        "RuntimeError: --compile: torch.compile does not work on cpu"
    )
    for part in ("no-such-compiler", "a C++ compiler (g++, or what CXX names)", "leave --compile out"):
        assert part in last

"""One stage: inject, frozen blocks, extract."""

import pytest
import torch
from timm import layers
from torch import nn

from models.vitadapter.attention import CrossAttention
from models.vitadapter.interaction import (
    CompressedFFN,
    DropPath,
    Extractor,
    Injector,
    InteractionStage,
    build_prompt_selfattention,
)
from tests import oracle

E, HEADS, T, L, M = 24, 3, 2, 7, 4


def named(module):
    return {f"x.{name}": p for name, p in module.named_parameters()}


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    shapes = {"cls": (T, 1, E), "patches": (T, L, E), "c": (T, M, E), "pos": (M, E)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()
    }


def stage(randomise=None, extra=0, drop_path=0.0, init_value=0.0):
    module = InteractionStage(E, HEADS, 0.25, init_value, drop_path, extra)
    return (randomise(module) if randomise else module).double().eval()


# ---------------------------------------------------------------------------- parts
def test_injector_keeps_the_double_residual(randomise, tokens):
    injector = randomise(Injector(E, HEADS, 0.25, 0.0)).double()
    for task in range(T):
        patches, c = tokens["patches"][task], tokens["c"][task]
        read = oracle.cross_attention(patches, c, named(injector), "x.attn", HEADS, key_pos=tokens["pos"])
        expected = patches + injector.gamma * read
        torch.testing.assert_close(injector(tokens["patches"], tokens["c"], tokens["pos"])[task], expected)
    with torch.no_grad():  # without attention the gate still adds the patches themselves
        for parameter in injector.attn.output_proj.parameters():
            parameter.zero_()
    doubled = injector(tokens["patches"], tokens["c"], tokens["pos"])
    torch.testing.assert_close(doubled, tokens["patches"] * (1 + injector.gamma))


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_the_gate_starts_where_told(value, tokens):
    injector = Injector(E, HEADS, 0.25, value)
    assert torch.equal(injector.gamma, torch.full((E,), value))
    injector.double()
    same = torch.equal(injector(tokens["patches"], tokens["c"], tokens["pos"]), tokens["patches"])
    assert same == (value == 0)


def test_extractor_equals_the_oracle(randomise, tokens):
    extractor = randomise(Extractor(E, HEADS, 0.25, 0.1)).double().eval()
    expected = [
        oracle.extract(c, patches, tokens["pos"], named(extractor), "x", HEADS)
        for c, patches in zip(tokens["c"], tokens["patches"], strict=True)
    ]
    torch.testing.assert_close(
        extractor(tokens["c"], tokens["patches"], tokens["pos"]), torch.stack(expected)
    )


def test_drop_path_drops_the_network_of_whole_tasks_and_nothing_else(randomise):
    extractor = randomise(Extractor(E, HEADS, 0.25, 0.5)).double()
    c = torch.randn(1, M, E, dtype=torch.float64).expand(40, -1, -1)
    patches = torch.randn(1, L, E, dtype=torch.float64).expand(40, -1, -1)
    pos = torch.randn(M, E, dtype=torch.float64)
    without = (c + extractor.attn(c, patches, query_pos=pos))[0]
    network = extractor.ffn(without)
    torch.manual_seed(0)
    kept = 0
    for row in extractor.train()(c, patches, pos):
        dropped = torch.allclose(row, without)
        assert dropped or torch.allclose(row, without + 2 * network)
        kept += not dropped
    assert 8 < kept < 32


@pytest.mark.parametrize("drop_prob", [0.0, 0.3, 1.0])
def test_drop_path_draws_what_timm_draws(drop_prob):
    x = torch.randn(50, 4, 6, dtype=torch.float64)
    found = []
    for layer in (DropPath(drop_prob), layers.DropPath(drop_prob)):
        torch.manual_seed(0)
        found.append(layer.train()(x))
    assert torch.equal(*found)


def test_network_has_no_residual_of_its_own(randomise):
    ffn = randomise(CompressedFFN(E, 0.25)).double()
    x = torch.randn(T, M, E, dtype=torch.float64)
    state = named(ffn)
    hidden = torch.relu(oracle.linear(oracle.layer_norm(x, state, "x.norm"), state, "x.linear1"))
    assert hidden.shape[-1] == E // 4
    torch.testing.assert_close(ffn(x), oracle.linear(hidden, state, "x.linear2"))


# ---------------------------------------------------------------------------- the stage
@pytest.mark.parametrize("extra", [0, 2])
def test_order_of_a_stage(randomise, tokens, extra):
    module = stage(randomise, extra)
    seen = []

    def blocks(x):
        seen.append(x)
        return x.flip(1) * 2  # mixes CLS and patches

    cls, patches, c = module(**tokens, run_blocks=blocks)
    pos = tokens["pos"]
    injected = module.injector(tokens["patches"], tokens["c"], pos)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], torch.cat([tokens["cls"], injected], dim=1))  # CLS untouched
    torch.testing.assert_close(torch.cat([cls, patches], dim=1), seen[0].flip(1) * 2)
    expected = module.extractor(tokens["c"], patches, pos)  # reads patches after the blocks, without CLS
    for k in range(extra):
        expected = module.extra_extractors[k](expected, patches, pos)
    torch.testing.assert_close(c, expected)


def test_extractors_do_not_read_cls(randomise, tokens):
    module = stage(randomise, 2)
    c = module(**tokens, run_blocks=lambda x: x)[2]
    other = module(**{**tokens, "cls": tokens["cls"] + 100}, run_blocks=lambda x: x)[2]
    assert torch.equal(c, other)


def test_tasks_do_not_mix(randomise, tokens):
    module = stage(randomise, 2)
    together = module(**tokens, run_blocks=lambda x: x * 3)
    for task in range(T):
        alone = {name: v if name == "pos" else v[task : task + 1] for name, v in tokens.items()}
        for ours, expected in zip(module(**alone, run_blocks=lambda x: x * 3), together, strict=True):
            torch.testing.assert_close(ours[0], expected[task])


def test_only_the_last_stage_has_extra_extractors():
    assert not hasattr(stage(extra=0), "extra_extractors") and len(stage(extra=2).extra_extractors) == 2


# ---------------------------------------------------------------------------- initialisation
def test_initialisation_is_the_published_one():
    torch.manual_seed(0)
    module = InteractionStage(192, 12, 0.25, 0.0, 0.1, 2)
    attentions = [m for m in module.modules() if isinstance(m, CrossAttention)]
    networks = [m for m in module.modules() if isinstance(m, CompressedFFN)]
    assert (len(attentions), len(networks)) == (4, 3)
    for attention in attentions:
        for matrix in (p for p in attention.parameters() if p.dim() == 2):
            assert matrix.abs().max().item() == pytest.approx((6 / sum(matrix.shape)) ** 0.5, rel=0.05)
        biases = [p for name, p in attention.named_parameters() if "bias" in name]
        assert all(bias.abs().max() == 0 for bias in biases)
    for network in networks:
        for linear in (network.linear1, network.linear2):
            assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert linear.bias.abs().max() == 0
    norms = [m for m in module.modules() if isinstance(m, nn.LayerNorm)]
    assert all((n.weight == 1).all() and (n.bias == 0).all() for n in norms)


def test_prompt_self_attention_before_every_stage_but_the_first():
    torch.manual_seed(0)
    layers = build_prompt_selfattention(192, 12, 0.25, 3)
    assert list(layers) == ["1", "2"]
    for layer in layers.values():
        for matrix in (p for p in layer.parameters() if p.dim() == 2):
            assert matrix.abs().max().item() == pytest.approx((6 / sum(matrix.shape)) ** 0.5, rel=0.05)
        # PyTorch's default: uniform up to 1 / sqrt(inputs)
        assert layer.q_proj.bias.abs().max().item() == pytest.approx(192**-0.5, rel=0.15)
        assert layer.output_proj.bias.abs().max().item() == pytest.approx(48**-0.5, rel=0.15)

"""TransMIL against loops over the grid and dense attention."""

import math

import pytest
import torch

from models.aggregators.transmil import TransMIL
from tests.models.aggregators.conftest import gradients_reach_everything, randomise
from tests.models.layers.test_nystrom import slow as slow_attention
from tests.oracle import layer_norm, linear

D = 6


def part(state, prefix):
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def slow_positions(tokens, state):
    """Cell by cell; outside of the image there are zeros."""
    side = round(math.sqrt(len(tokens) - 1))
    out = tokens.clone()
    for row in range(side):
        for column in range(side):
            for index, kernel in enumerate((7, 5, 3)):
                weight = state[f"convolutions.{index}.weight"][:, 0]
                here = state[f"convolutions.{index}.bias"].clone()
                for i in range(kernel):
                    for j in range(kernel):
                        r, c = row + i - kernel // 2, column + j - kernel // 2
                        if 0 <= r < side and 0 <= c < side:
                            here = here + weight[:, i, j] * tokens[1 + r * side + c]
                out[1 + row * side + column] += here
    return out


def slow(features, state, heads, landmarks, keep):
    patches = [torch.relu(linear(x, state, "patch.0")) for x in features]
    side = 1
    while side * side < len(patches):
        side += 1
    patches += patches[: side * side - len(patches)]
    tokens = torch.stack([state["cls_token"][0], *patches])
    for index in range(2):
        normed = layer_norm(tokens, state, f"norms.{index}")
        tokens = tokens + keep * slow_attention(normed, part(state, f"attentions.{index}."), heads, landmarks)
        if index == 0:
            tokens = slow_positions(tokens, part(state, "positions."))
    return layer_norm(tokens[0], state, "norm")


@pytest.mark.parametrize("patches", [1, 2, 3, 4, 5, 23])
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_slow_version(double, scaled_dropout, patches, training):
    model = randomise(TransMIL(D, dim=8, heads=2, landmarks=4)).train(training)
    features = torch.randn(patches, D)
    expected = slow(features, model.state_dict(), 2, 4, 0.9 if training else 1.0)
    torch.testing.assert_close(model(features), expected, rtol=1e-9, atol=1e-9)


def test_sizes_are_the_published_ones():
    model = TransMIL(1536)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert model.output_dim == 512
    assert shapes["attentions.1.to_qkv.weight"] == (1536, 512)
    assert shapes["attentions.0.res_conv.weight"] == (8, 1, 33, 1)
    assert [shapes[f"positions.convolutions.{i}.weight"] for i in range(3)] == [
        (512, 1, k, k) for k in (7, 5, 3)
    ]
    assert model.attentions[0].landmarks == 256


def test_the_class_token_starts_standard_normal():
    torch.manual_seed(0)
    token = TransMIL(D, dim=512).cls_token
    assert token.std().item() == pytest.approx(1, abs=0.1)


def test_every_parameter_learns(double):
    assert gradients_reach_everything(TransMIL(D, dim=8, heads=2, landmarks=4), torch.randn(7, D)) == []


def test_patch_order_matters(double):
    model = TransMIL(D, dim=8, heads=2, landmarks=4).eval()
    features = torch.randn(9, D)
    assert not torch.allclose(model(features), model(features.flip(0)))

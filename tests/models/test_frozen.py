"""Frozen linear layers: same numbers as PyTorch's, and no gradients of their own."""

import copy

import pytest
import torch
from torch import nn

from models import frozen
from models.frozen import FrozenLinear, freeze, joined_linear


def network(bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40, bias), nn.GELU(), nn.Linear(40, 16, bias), nn.LayerNorm(16))


@pytest.fixture
def onednn_calls(monkeypatch):
    """Counts the calls of oneDNN's product."""
    if not frozen.has_onednn():
        pytest.skip("this PyTorch has no oneDNN")
    calls, product = [], frozen._product
    monkeypatch.setattr(frozen, "_product", lambda *args: calls.append(args) or product(*args))
    return calls


@pytest.mark.parametrize("shape", [(24,), (7, 24), (3, 33, 24), (0, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_equal_float64(shape, bias, onednn_calls):
    model = network(bias)
    exact = copy.deepcopy(model).double()
    freeze(model)
    x = torch.randn(shape, requires_grad=True)
    y = x.detach().double().requires_grad_()
    out, expected = model(x), exact(y)
    torch.testing.assert_close(out, expected.float(), rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    expected.backward(upstream.double())
    torch.testing.assert_close(x.grad, y.grad.float(), rtol=1e-5, atol=1e-5)
    assert len(onednn_calls) == 4
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


def test_views_of_tensors(onednn_calls):
    layer = freeze(nn.Linear(24, 40))
    x = torch.randn(24, 9, 2).transpose(0, 1)[..., 0]  # strides no product likes
    out = layer(x.requires_grad_())
    torch.testing.assert_close(out, nn.functional.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(out, x, torch.ones(()).expand(out.shape))
    torch.testing.assert_close(grad, layer.weight.sum(0).expand(9, -1), rtol=1e-5, atol=1e-5)
    assert len(onednn_calls) == 2


def test_what_onednn_is_not_used_for(onednn_calls):
    model = freeze(network())
    model.double()(torch.randn(3, 24, dtype=torch.float64))
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert model[0](torch.randn(3, 24)).dtype == torch.bfloat16
    model.requires_grad_(True)
    model(torch.randn(3, 24)).sum().backward()
    assert model[0].weight.grad is not None
    assert not onednn_calls


def test_without_onednn_pytorch_computes(monkeypatch):
    model = network()
    x = torch.randn(5, 24)
    expected = model(x)
    monkeypatch.setattr(frozen, "has_onednn", lambda: False)
    monkeypatch.setattr(frozen, "_product", None)
    assert torch.equal(freeze(model)(x), expected)


def test_a_wrong_product_is_not_used(monkeypatch):
    monkeypatch.setattr(frozen, "_product", lambda x, weight, bias: x @ weight.t() * 1.01)
    assert not frozen.has_onednn.__wrapped__()


def test_a_product_that_fails_is_not_used(monkeypatch, caplog):
    def product(x, weight, bias):
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(frozen, "_product", product)
    assert not frozen.has_onednn.__wrapped__()
    assert "could not create a primitive" in caplog.text or not torch.backends.mkldnn.is_available()


def test_freezing_changes_no_names_and_no_numbers():
    model = network()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert freeze(model) is model
    assert [type(layer) for layer in model] == [FrozenLinear, nn.GELU, FrozenLinear, nn.LayerNorm]
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert isinstance(copy.deepcopy(model)[0], FrozenLinear)


# ---------------------------------------------------------------------------- copies in another precision
def casts(function):
    """How often a cast of weights is dispatched."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return sum(event.count for event in profile.key_averages() if event.key == "aten::_to_copy")


def test_under_autocast_weights_are_cast_once():
    model = freeze(network())
    plain = network().requires_grad_(False)
    x = torch.randn(5, 24)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = plain(x), model(x)
        again = casts(lambda: model[0](x))
        assert again < casts(lambda: plain[0](x))
    assert found.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(found, expected)


def test_gradients_under_autocast():
    model, plain = freeze(network()), network().requires_grad_(False)
    inputs = [torch.linspace(-1, 1, 5 * 24).view(5, 24).requires_grad_() for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        for layers, x in zip((model, plain), inputs, strict=True):
            layers(x).float().square().sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)


@pytest.mark.parametrize("change", ["written", "loaded", "replaced", "moved"])
def test_copies_follow_their_parameters(change):
    layer, x = freeze(nn.Linear(24, 40)), torch.randn(5, 24)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        layer(x)
    other = nn.Linear(24, 40).requires_grad_(False)
    if change == "written":
        layer.weight.copy_(other.weight)
        layer.bias.copy_(other.bias)
    elif change == "loaded":
        layer.load_state_dict(other.state_dict())
    elif change == "replaced":
        layer.weight, layer.bias = other.weight, other.bias
    else:
        layer.weight.data, layer.bias.data = other.weight.data, other.bias.data
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x.requires_grad_()), other(x))
        layer(x).sum().backward()  # copies made in inference mode serve training


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_joined_layers(bias, frozen, autocast):
    torch.manual_seed(0)
    layers = [nn.Linear(24, size, bias) for size in (40, 16, 8)]
    exact = copy.deepcopy(layers)
    if frozen:
        layers = [freeze(layer) for layer in layers]
    inputs = [torch.linspace(-1, 1, 5 * 24).view(5, 24).requires_grad_() for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = joined_linear(inputs[0], layers)
        expected = torch.cat([layer(inputs[1]) for layer in exact], dim=-1)
    assert found.dtype == expected.dtype
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if autocast else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(found, expected, **tolerance)
    for result in (found, expected):
        result.float().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, **tolerance)
    for one, other in zip(layers, exact, strict=True):
        if frozen:
            assert one.weight.grad is None
        else:
            torch.testing.assert_close(one.weight.grad, other.weight.grad, **tolerance)

"""Dropout with cheap masks."""

import pytest
import torch

from models.prov_gigapath.dropout import Dropout, DropPath, keep_mask


@pytest.mark.parametrize("p", [0.1, 0.25, 0.9])
def test_share_of_zeros_and_scale(p):
    torch.manual_seed(0)
    x = torch.ones(400, 501, requires_grad=True)
    out = Dropout(p)(x)
    out.sum().backward()
    kept = out != 0
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=5e-3)
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / (1 - p)))
    assert torch.equal(x.grad, out.detach())


def test_masks_are_independent():
    torch.manual_seed(0)
    mask = keep_mask(torch.Size([250_000, 4]), 0.25).float()
    assert (torch.corrcoef(mask.T) - torch.eye(4)).abs().max() < 0.01
    following = torch.corrcoef(torch.stack([mask.flatten()[:-4], mask.flatten()[4:]]))[0, 1]
    assert following.abs() < 0.01


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_all_or_nothing(p):
    x = torch.randn(3, 5)
    assert torch.equal(Dropout(p)(x), x * (1 - p))


def test_evaluation_and_seed():
    x = torch.randn(3, 7)
    layer = Dropout(0.5)
    assert layer.eval()(x) is x
    layer.train()
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)


@pytest.mark.parametrize("kept", [[], [1], [0, 2], [0, 1, 2]])
def test_drop_path_equals_computing_everything_and_multiplying(kept, monkeypatch):
    rates = torch.tensor([0.2 if copy in kept else 0.9 for copy in range(3)])
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: rates)
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    sizes = []

    def branch(tokens):
        sizes.append(len(tokens))
        return (tokens @ weight).tanh()

    out = DropPath(0.25)(x, branch)
    assert sizes == ([len(kept)] if kept else [])
    mask = torch.tensor([float(copy in kept) for copy in range(3)]).view(-1, 1, 1)
    expected = x + (x @ weight).tanh() * mask / 0.75
    torch.testing.assert_close(out, expected)
    upstream = torch.randn_like(out)
    found = torch.autograd.grad(out, (x, weight), upstream, materialize_grads=True)
    for one, other in zip(found, torch.autograd.grad(expected, (x, weight), upstream), strict=True):
        torch.testing.assert_close(one, other)


def test_drop_path_keeps_the_precision_of_its_input():
    torch.manual_seed(0)
    x = torch.randn(40, 2, 3)
    out = DropPath(0.5)(x, lambda tokens: tokens.bfloat16())
    assert out.dtype == torch.float32
    changed = (out != x).any(dim=(1, 2))
    assert 0 < changed.sum() < 40
    torch.testing.assert_close(out[changed], 3 * x[changed], rtol=0.02, atol=0)


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_drop_path_drops_a_share_and_follows_the_seed(rate):
    layer, x = DropPath(rate), torch.ones(20_000, 1)
    torch.manual_seed(0)
    out = layer(x, lambda tokens: tokens)
    assert (out == 1).float().mean().item() == pytest.approx(rate, abs=0.02)
    assert out.mean().item() == pytest.approx(2, abs=0.05)
    torch.manual_seed(0)
    assert torch.equal(layer(x, lambda tokens: tokens), out)
    assert torch.equal(layer.eval()(x, lambda tokens: tokens), 2 * x)

"""Dropout with cheap masks."""

import pytest
import torch

from models.prov_gigapath.dropout import Dropout, keep_mask


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

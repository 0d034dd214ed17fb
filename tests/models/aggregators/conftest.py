"""What the oracle tests of the baselines share."""

import pytest
import torch

KEEP = 0.75  # what stays of every value under ``scaled_dropout`` at the usual rate of 0.25


@pytest.fixture
def scaled_dropout(monkeypatch):
    """Dropout of rate p multiplies by 1 - p in training mode, so that its places and rates can be compared."""

    def scale(x, p=0.5, training=False, inplace=False):
        return x * (1 - p) if training else x

    monkeypatch.setattr(torch.nn.functional, "dropout", scale)
    monkeypatch.setattr(torch.nn.functional, "alpha_dropout", scale)


@pytest.fixture
def double():
    """Float64 is the default type; weights and inputs drawn from a seed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(7)
    yield
    torch.set_default_dtype(before)


def randomise(model):
    """Every parameter standard normal, scaled to keep values in range: no zero or one hides a fault."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


def gradients_reach_everything(model, *inputs):
    """Whether a random weighting of the outputs has a non-zero gradient for every parameter."""
    output = model(*inputs)
    (output * torch.randn_like(output)).sum().backward()
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]

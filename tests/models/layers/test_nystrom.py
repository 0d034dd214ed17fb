"""Nystrom attention against dense matrices, head by head."""

import pytest
import torch

from models.layers.nystrom import NystromAttention, pseudo_inverse


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(3)
    yield
    torch.set_default_dtype(before)


def slow(x, state, heads, m):
    """All matrices dense; landmarks, convolution and pseudo-inverse in loops."""
    count, dim = x.shape
    group = -(-count // m)
    padded = torch.cat([x.new_zeros(m * group - count, dim), x])
    projected = padded @ state["to_qkv.weight"].T
    width = dim // heads
    parts = []
    for head in range(heads):
        q, k, v = (projected[:, i * dim + head * width : i * dim + (head + 1) * width] for i in range(3))
        q = q / width**0.5
        q_low = torch.stack([q[i * group : (i + 1) * group].sum(0) / group for i in range(m)])
        k_low = torch.stack([k[i * group : (i + 1) * group].sum(0) / group for i in range(m)])
        parts.append(((q @ k_low.T).softmax(-1), (q_low @ k_low.T).softmax(-1), (q_low @ k.T).softmax(-1), v))
    rows = max(a2[i].sum().item() for _, a2, _, _ in parts for i in range(m))
    columns = max(a2[:, i].sum().item() for _, a2, _, _ in parts for i in range(m))
    outs = []
    eye = torch.eye(m)
    for head, (a1, a2, a3, v) in enumerate(parts):
        z = a2.T / (rows * columns)
        for _ in range(6):
            z = 0.25 * z @ (13 * eye - a2 @ z @ (15 * eye - a2 @ z @ (7 * eye - a2 @ z)))
        out = a1 @ z @ a3 @ v
        kernel = state["res_conv.weight"][head, 0, :, 0]
        half = len(kernel) // 2
        for t in range(len(v)):
            for j, weight in enumerate(kernel):
                if 0 <= t + j - half < len(v):
                    out[t] = out[t] + weight * v[t + j - half]
        outs.append(out)
    out = torch.cat(outs, dim=1) @ state["to_out.0.weight"].T + state["to_out.0.bias"]
    return out[len(padded) - count :]


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 16, 17, 31])
def test_equals_dense_matrices_at_any_length(count):
    layer = NystromAttention(12, heads=3, landmarks=8, kernel=5, dropout=0.0)
    x = torch.randn(count, 12)
    torch.testing.assert_close(layer(x), slow(x, layer.state_dict(), 3, 8), rtol=1e-10, atol=1e-10)


def test_gradients_equal_finite_differences():
    layer = NystromAttention(4, heads=2, landmarks=3, kernel=3, dropout=0.0)
    x = torch.randn(5, 4, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_pseudo_inverse_inverts():
    matrix = (torch.randn(2, 6, 6) * 2).softmax(-1)
    found = pseudo_inverse(matrix, 40)
    torch.testing.assert_close(found, torch.linalg.pinv(matrix), rtol=1e-6, atol=1e-6)


def test_heads_share_the_scale_of_the_start():
    alone = torch.rand(1, 4, 4).softmax(-1)
    one_column = torch.zeros(1, 4, 4)
    one_column[..., 0] = 1.0  # its column sums to 4, that of the other to less
    together = torch.cat([alone, one_column])
    assert not torch.allclose(pseudo_inverse(alone, 1), pseudo_inverse(together, 1)[:1])


def test_stays_in_single_precision_under_autocast():
    torch.set_default_dtype(torch.float32)
    layer = NystromAttention(8, heads=2, landmarks=4, kernel=3, dropout=0.0)
    x = torch.randn(9, 8)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_width_must_fit_the_heads():
    with pytest.raises(ValueError, match="no multiple of 3 heads"):
        NystromAttention(8, heads=3)

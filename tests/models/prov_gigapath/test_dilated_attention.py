"""Dilated attention against loops over heads, segments and positions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.prov_gigapath.attention import attend
from models.prov_gigapath.attention_kernels import textbook
from models.prov_gigapath.dilated_attention import dilated_attention, plan


def oracle(q, k, v, segments, ratios):
    """The definition, written with loops: per branch, segment and head an explicit softmax."""
    batch, length, heads, dim = q.shape
    total = torch.zeros_like(q)
    outs, lses = [], []
    for segment, ratio in zip(segments, ratios, strict=True):
        w = min(segment, length)
        out = torch.zeros_like(q)
        lse = torch.full((batch, length, heads), -1e8, dtype=q.dtype)
        group_size = math.ceil(heads / ratio)
        for b in range(batch):
            for h in range(heads):
                offset = h // group_size
                for start in range(0, length, w):
                    stop = start + math.ceil(w / ratio) * ratio  # stride padding stays inside the segment
                    slots = list(range(start + offset, stop, ratio))
                    real = [s for s in slots if s < min(start + w, length)]
                    padding = len(slots) - len(real)
                    keys = torch.cat([k[b, real, h], torch.zeros(padding, dim, dtype=q.dtype)])
                    values = torch.cat([v[b, real, h], torch.zeros(padding, dim, dtype=q.dtype)])
                    for s in real:
                        scores = keys @ q[b, s, h] / math.sqrt(dim)
                        out[b, s, h] = scores.softmax(0) @ values
                        value = scores.logsumexp(0).detach()
                        lse[b, s, h] = value if value != 0 else -1e8
        outs.append(out)
        lses.append(lse)
    peak = torch.stack(lses).max(0).values
    shares = [(lse - peak).exp() for lse in lses]
    norm = sum(shares)
    for out, share in zip(outs, shares, strict=True):
        total = total + out * (share / norm)[..., None]
    return total


def random_qkv(length, heads, dim=3, batch=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, length, heads, dim, generator=generator, dtype=dtype).requires_grad_()
        for _ in range(3)
    ]


def ours(q, k, v, segments, ratios):
    return dilated_attention(torch.stack([q, k, v], dim=2), segments, ratios)


def assert_equal_with_gradients(q, k, v, segments, ratios, **tolerance):
    probe = torch.randn_like(q)
    results = []
    for function in (ours, oracle):
        out = function(q, k, v, segments, ratios)
        results.append((out, *torch.autograd.grad((out * probe).sum(), (q, k, v))))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **tolerance)


# Below, at and across the borders of a segment of 8, and of the stride paddings.
@pytest.mark.parametrize("length", [1, 5, 7, 8, 9, 15, 16, 17, 33])
@pytest.mark.parametrize("heads", [4, 6])
def test_equals_loops_at_segment_borders(length, heads):
    q, k, v = random_qkv(length, heads)
    assert_equal_with_gradients(q, k, v, (8, 20, 64), (1, 2, 4), rtol=1e-10, atol=1e-10)


def test_heads_fewer_than_ratio():
    q, k, v = random_qkv(19, heads=3)
    assert_equal_with_gradients(q, k, v, (8, 16), (1, 8), rtol=1e-10, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 40),
    heads=st.integers(1, 6),
    segments=st.lists(st.integers(1, 48), min_size=1, max_size=4),
    ratios=st.lists(st.integers(1, 9), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_equals_loops_for_any_geometry(length, heads, segments, ratios, seed):
    q, k, v = random_qkv(length, heads, batch=1, seed=seed)
    ratios = [1, *ratios][: len(segments)]
    assert_equal_with_gradients(q, k, v, segments, ratios, rtol=1e-9, atol=1e-9)


def test_single_precision():
    q, k, v = random_qkv(50, 4, dim=16, dtype=torch.float32)
    assert_equal_with_gradients(q, k, v, (16, 40), (1, 2), rtol=2e-5, atol=2e-6)


def test_bfloat16_stays_near_double():
    q, k, v = (x.detach() for x in random_qkv(64, 4, dim=16))
    expected = oracle(q, k, v, (16, 64), (1, 2))
    found = ours(q.bfloat16(), k.bfloat16(), v.bfloat16(), (16, 64), (1, 2))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=3e-2, atol=3e-2)


def test_zero_log_sum_exp_counts_as_absent():
    """A one-key segment with score 0 has log-sum-exp 0: the branch must drop out of the average."""
    q, k, v = random_qkv(3, heads=1, batch=1)
    with torch.no_grad():
        q[0, 2] = 0  # alone in the last segment of the first branch
    assert_equal_with_gradients(q, k, v, (1, 3), (1, 1), rtol=1e-12, atol=1e-12)


def test_weights_between_branches_carry_no_gradient():
    """With values constant over positions the output does not depend on the scores."""
    q, k, v = random_qkv(12, heads=2)
    out = ours(q, k, torch.ones_like(v), (4, 12), (1, 1))
    grad_q, grad_k = torch.autograd.grad(out.sum(), (q, k))
    assert grad_q.abs().max() < 1e-12 and grad_k.abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fused_kernel_equals_textbook(dtype):
    q, k, v = (x.detach().to(dtype).transpose(1, 2) for x in random_qkv(33, 2, dim=8))
    out, lse = attend(q, k, v)
    expected = textbook(*(x.double() for x in (q, k, v)))
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(out.double(), expected[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(lse.double(), expected[1], rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 70),
    heads=st.integers(1, 7),
    segments=st.lists(st.integers(1, 80), min_size=1, max_size=4),
    ratios=st.lists(st.integers(1, 9), min_size=4, max_size=4),
)
def test_views_cover_what_a_part_sees_once(length, heads, segments, ratios):
    """At most two views of a part where the ratio divides the heads, one more where it does not."""
    dense = torch.arange(length * heads).view(1, length, heads, 1)
    for part in plan(tuple(segments), tuple(ratios[: len(segments)]), length, heads):
        group = math.ceil(heads / part.ratio)
        expected = [
            int(dense[0, part.start + n * part.length + p, h, 0])
            for n in range(part.count)
            for p in range(part.length)
            for h in range(heads)
            if p % part.ratio == h // group
        ]
        views = [seen for seen, _ in part.pairs(dense, part.empty(dense))]
        assert sorted(torch.cat([view.flatten() for view in views]).tolist()) == expected
        assert len(views) <= (4 if heads % part.ratio else 2)


@pytest.mark.parametrize("length", [37, 61])
def test_whole_gradient_is_that_of_the_function(length):
    """Against differences of the function; the gradient of training takes the weights for constant and is another."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(1, length, 3, 4, 3, generator=generator, dtype=torch.float64)
    towards = torch.randn(1, length, 4, 3, generator=generator, dtype=torch.float64)

    def gradient(whole):
        leaf = qkv.clone().requires_grad_()
        value = (dilated_attention(leaf, (8, 20, 64), (1, 2, 4), whole) * towards).sum()
        return torch.autograd.grad(value, leaf)[0]

    def value(point):
        return float((dilated_attention(point, (8, 20, 64), (1, 2, 4)) * towards).sum())

    found, constant = gradient(True), gradient(False)
    for seed in range(5):
        step = torch.randn(qkv.shape, generator=generator, dtype=torch.float64)
        slope = (value(qkv + 1e-6 * step) - value(qkv - 1e-6 * step)) / 2e-6
        assert float((found * step).sum()) == pytest.approx(slope, rel=1e-6), seed
    assert not torch.allclose(found, constant, rtol=1e-3)

"""The fused copies, in Triton's interpreter, against the strided ones and against loops."""

import importlib.util
import sys

import pytest
import torch

from models.prov_gigapath import dilated_attention as module
from models.prov_gigapath import dilated_kernels
from models.prov_gigapath.dilated_attention import StridedDilatedAttention, plan
from tests.models.prov_gigapath.test_dilated_attention import oracle

pytestmark = pytest.mark.skipif(not dilated_kernels.HAS_TRITON, reason="Triton is not installed")


@pytest.fixture(scope="module")
def kernels():
    """The module once more, with kernels that the interpreter runs on CPUs."""
    name = "interpreted_dilated_kernels"
    spec = importlib.util.spec_from_file_location(name, dilated_kernels.__file__)
    found = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setitem(sys.modules, name, found)
        spec.loader.exec_module(found)
        found._ROWS = 128  # the interpreter takes as long for a program whatever its size
        yield found


def with_gradients(function, qkv, grad, *rest):
    qkv = qkv.clone().requires_grad_()
    out = function(qkv, *rest)
    return out, *torch.autograd.grad(out, qkv, grad)


# Lengths at segment borders; ratios that divide the heads and that do not; more ratio than heads; one position.
@pytest.mark.parametrize(
    ("length", "heads", "width", "segments", "ratios"),
    [
        (61, 4, 8, (16, 40, 100), (1, 2, 4)),
        (64, 4, 48, (16, 40, 100), (1, 2, 4)),
        (65, 4, 8, (64, 32), (1, 4)),
        (33, 6, 16, (8, 20, 64), (1, 2, 4)),
        (19, 3, 8, (8, 16), (1, 8)),
        (1, 2, 8, (8, 16), (1, 2)),
    ],
)
def test_equal_to_strided_copies_and_loops(kernels, length, heads, width, segments, ratios):
    torch.manual_seed(length)
    qkv, grad = torch.randn(2, length, 3, heads, width), torch.randn(2, length, heads, width)
    parts = plan(segments, ratios, length, heads)
    fused = with_gradients(kernels.FusedDilatedAttention.apply, qkv, grad, parts)
    strided = with_gradients(StridedDilatedAttention.apply, qkv, grad, parts)
    loops = with_gradients(lambda x: oracle(*x.unbind(2), segments, ratios), qkv.double(), grad.double())
    for found, other, exact in zip(fused, strided, loops, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-5, atol=2e-6)
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=5e-6)


def test_half_precision(kernels):
    torch.manual_seed(0)
    segments, ratios = (16, 40, 100), (1, 2, 4)
    qkv, grad = (torch.randn(1, 61, *shape).bfloat16() for shape in ((3, 4, 16), (4, 16)))
    parts = plan(segments, ratios, 61, 4)
    fused = with_gradients(kernels.FusedDilatedAttention.apply, qkv, grad, parts)
    loops = with_gradients(lambda x: oracle(*x.unbind(2), segments, ratios), qkv.double(), grad.double())
    for found, exact in zip(fused, loops, strict=True):
        assert found.dtype == torch.bfloat16
        assert (found.double() - exact).norm() < 1e-2 * exact.norm()


def test_a_zero_log_sum_exp_counts_as_absent(kernels):
    torch.manual_seed(0)
    qkv, grad = torch.randn(1, 3, 3, 1, 8), torch.randn(1, 3, 1, 8)
    qkv[0, 2, 0] = 0  # alone in the last segment of the first branch
    parts = plan((1, 3), (1, 1), 3, 1)
    fused = with_gradients(kernels.FusedDilatedAttention.apply, qkv, grad, parts)
    strided = with_gradients(StridedDilatedAttention.apply, qkv, grad, parts)
    for found, other in zip(fused, strided, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-6)


def test_strided_gradients_and_inputs(kernels):
    """Neither need be contiguous."""
    torch.manual_seed(0)
    qkv, grad = (
        torch.randn(3, 21, 2, 4, 8).permute(2, 1, 0, 3, 4),
        torch.randn(4, 21, 2, 8).permute(2, 1, 0, 3),
    )
    parts = plan((8, 40), (1, 2), 21, 4)
    fused = with_gradients(kernels.FusedDilatedAttention.apply, qkv, grad, parts)
    strided = with_gradients(StridedDilatedAttention.apply, qkv, grad, parts)
    for found, other in zip(fused, strided, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------- the choice
@pytest.fixture
def chosen(kernels, monkeypatch):
    """Runs dilated attention as if the CPU were a GPU; says which way it went."""
    ways = []

    def run(fused=kernels.FusedDilatedAttention):
        class Fused(fused):
            @staticmethod
            def forward(ctx, *inputs):
                ways.append("fused")
                return fused.forward(ctx, *inputs)

        monkeypatch.setattr(dilated_kernels, "takes", lambda device, dtype: True)
        monkeypatch.setattr(dilated_kernels, "FusedDilatedAttention", Fused)
        module._fused_agrees.cache_clear()
        found = module.dilated_attention(torch.randn(1, 33, 3, 4, 8), (16, 64), (1, 2))
        assert found.shape == (1, 33, 4, 8)
        return ways

    yield run
    module._fused_agrees.cache_clear()


def test_fused_copies_are_used_where_they_agree(chosen):
    assert chosen() == ["fused", "fused"]  # the trial and the call


def test_fused_copies_that_are_wrong_are_not_used(chosen, kernels, caplog):
    class Wrong(kernels.FusedDilatedAttention):
        @staticmethod
        def forward(ctx, *inputs):
            return kernels.FusedDilatedAttention.forward(ctx, *inputs) * 1.01

    assert chosen(Wrong) == ["fused"]
    assert "strided copies" in caplog.text


def test_fused_copies_that_fail_are_not_used(chosen, kernels, caplog):
    class Broken(kernels.FusedDilatedAttention):
        @staticmethod
        def forward(ctx, *inputs):
            raise RuntimeError("ptxas not found")

    assert chosen(Broken) == ["fused"]
    assert "ptxas not found" in caplog.text


def test_cpus_and_float64_keep_to_pytorch():
    assert not dilated_kernels.takes(torch.device("cpu"), torch.float32)

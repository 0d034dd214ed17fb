"""Formulas for floating-point operations against PyTorch's counter and against loops."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.encoders import slide_encoder
from models.prov_gigapath.longnet import LongNetViT
from models.titan.vision_encoder import TitanVisionEncoder
from tests.benchmarks import flops
from tests.small_cohort import small_longnet
from utils.files import read_json

LONGNET = small_longnet(embed_dim=16, num_heads=4, segment_lengths=[8, 40])
TITAN = {"embed_dim": 16, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0, "pooler_heads": 2}


@pytest.mark.parametrize("encoder", ["gigapath", "titan"])
def test_products(encoder):
    """Of the blocks, as PyTorch counts them; attention on CPUs is a kernel it does not see."""
    tokens = torch.randn(1, 33, 16)
    with FlopCounterMode(display=False) as counter:
        if encoder == "gigapath":
            for block in LongNetViT(grid_size=4, **LONGNET).eval().encoder.layers:
                block(tokens)
        else:
            vit = TitanVisionEncoder(in_dim=8, **TITAN)
            for block in vit.blocks.modules_list:
                block(tokens, torch.zeros(33, 2), vit.slopes)
    counts = counter.get_flop_counts()["Global"]
    counted = sum(count for op, count in counts.items() if "mm" in str(op))
    assert counted == flops.products(encoder, LONGNET if encoder == "gigapath" else TITAN, 33)


def test_pairs_of_dilated_attention():
    pairs = 0
    for segment, ratio in zip(LONGNET["segment_lengths"], LONGNET["dilated_ratios"], strict=True):
        for start in range(0, 33, segment):
            pairs += math.ceil(min(segment, 33 - start) / ratio) ** 2  # of a head
    assert flops.attention("gigapath", LONGNET, 33) == 2 * pairs * 4 * 16
    assert flops.attention("titan", TITAN, 33) == 3 * 33**2 * 4 * 16


def test_published_size():
    """The counted work in the documents: 1.58 TFLOP for a training step of 1,024 patches."""
    assert flops.step("gigapath", {}, 1024, 3, True) / 1e12 == pytest.approx(1.58, abs=0.02)
    flash = read_json(slide_encoder("gigapath_flash").config)["slide_encoder"]
    half, whole = (flops.products(*of, 1025) for of in (("gigapath_flash", flash), ("gigapath", {})))
    assert half == whole / 4  # half the width
    assert flops.products("titan", {}, 1025) * 6 / 1e12 == pytest.approx(0.52, abs=0.01)

"""Positions, blocks and parameter names of the slide encoder."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.prov_gigapath.longnet import LongNetLayer, LongNetViT, axis_position_table
from tests import oracle
from tests.models.prov_gigapath.test_dilated_attention import oracle as dilated_oracle
from tests.small_cohort import small_longnet

GRID, WIDTH = 7, 16


def dense_position_table(grid, width):
    """The published table ``[1 + grid ** 2, width]``, entry by entry; row 0 belongs to CLS."""
    quarter = width // 4
    rows = [[0.0] * width]
    for gx in range(grid):
        for gy in range(grid):
            row = []
            for value in (gy, gx):
                angles = [value / 10000 ** (i / quarter) for i in range(quarter)]
                row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def small_vit(**changes):
    sizes = {"embed_dim": WIDTH, "depth": 3, "num_heads": 2, "segment_lengths": [4, 16], "grid_size": GRID}
    return LongNetViT(**small_longnet(**{**sizes, **changes}))


# ---------------------------------------------------------------------------- positions
@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, GRID * 256 - 1), st.integers(0, GRID * 256 - 1)), min_size=1, max_size=20
    )
)
def test_positions_equal_rows_of_the_dense_table(coords):
    table = dense_position_table(GRID, WIDTH)
    rows = [(x // 256) * GRID + y // 256 + 1 for x, y in coords]
    ours = small_vit().positions(torch.tensor(coords))
    torch.testing.assert_close(ours.double(), table[rows], rtol=0, atol=1e-6)


def test_every_cell_of_the_grid():
    cells = torch.cartesian_prod(torch.arange(GRID), torch.arange(GRID))
    ours = small_vit().positions(cells * 256 + 255)
    torch.testing.assert_close(ours.double(), dense_position_table(GRID, WIDTH)[1:], rtol=0, atol=1e-6)
    assert len(torch.unique(ours, dim=0)) == GRID**2


def test_published_size_against_the_formula():
    """768 wide on 1000 x 1000 cells: 192 sines and 192 cosines of y, then of x."""
    table = axis_position_table(1000, 384)
    coords = [(0, 0), (255_999, 255_999), (256, 0), (70_000, 123_456)]
    for x, y in coords:
        code = torch.cat([table[y // 256], table[x // 256]])
        for offset, cell in ((0, y // 256), (384, x // 256)):
            for i in (0, 1, 77, 191):
                angle = cell * 10000 ** (-i / 192)
                assert float(code[offset + i]) == pytest.approx(math.sin(angle), abs=1e-6)
                assert float(code[offset + 192 + i]) == pytest.approx(math.cos(angle), abs=1e-6)


def test_outside_the_grid_the_border_counts():
    vit = small_vit()
    last = (GRID - 1) * 256
    outside = torch.tensor([[-1, 300], [GRID * 256, 300], [300, 10**9], [-5, -(10**6)]])
    border = torch.tensor([[0, 300], [last, 300], [300, last], [0, 0]])
    assert torch.equal(vit.positions(outside), vit.positions(border))
    assert vit.grid_cells(outside).tolist() == [[-1, 1], [GRID, 1], [1, 10**9 // 256], [-1, -3907]]


def test_coordinates_are_not_changed():
    coords = torch.tensor([[-300, 10**7]])
    small_vit().positions(coords)
    assert coords.tolist() == [[-300, 10**7]]


@pytest.mark.parametrize("tile_size", [128, 512])
def test_cells_follow_the_tile_size(tile_size):
    vit = small_vit(tile_size=tile_size)
    coords = torch.tensor([[tile_size - 1, 0], [tile_size, 3 * tile_size + 1]])
    assert vit.grid_cells(coords).tolist() == [[0, 0], [1, 3]]


def test_no_table_of_all_positions_is_kept():
    vit = small_vit(grid_size=1000)
    assert max(buffer.numel() for buffer in vit.buffers()) == 1000 * WIDTH // 2
    assert not [name for name in vit.state_dict() if "pos" in name]


# ---------------------------------------------------------------------------- blocks
def test_a_block_equals_the_oracle(randomise):
    layer = randomise(LongNetLayer(12, 3, 20, [4, 16], [1, 2], 0.25, 0.1)).double().eval()
    x = torch.randn(2, 11, 12, dtype=torch.float64)
    state = {f"block.{name}": p for name, p in layer.named_parameters()}
    expected = [oracle.longnet_block(row, state, "block", 3, dilated_oracle, [4, 16], [1, 2]) for row in x]
    torch.testing.assert_close(layer(x), torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_drop_path_drops_whole_residuals_of_a_task(randomise):
    """At rate 0.5 a residual is left out or doubled; four outcomes in all."""
    layer = randomise(LongNetLayer(12, 3, 20, [4], [1], 0.0, 0.5), scale=0.3).double()
    x = torch.randn(1, 6, 12, dtype=torch.float64).expand(64, -1, -1)

    def attention(y):
        return layer.self_attn(layer.self_attn_layer_norm(y))

    def network(y):
        return layer.ffn(layer.final_layer_norm(y))

    outcomes = []
    for first in (0, 2):
        middle = x[:1] + first * attention(x[:1])
        outcomes += [(middle + second * network(middle)).detach() for second in (0, 2)]
    torch.manual_seed(0)
    seen = Counter()
    for row in layer.train()(x).detach():
        distances = [float((row - outcome[0]).abs().max()) for outcome in outcomes]
        assert min(distances) < 1e-9
        seen[distances.index(min(distances))] += 1
    assert len(seen) == 4 and min(seen.values()) > 4
    assert torch.equal(layer.eval()(x)[0], layer(x)[1])


def test_dropout_works_on_both_residuals(randomise):
    layer = randomise(LongNetLayer(12, 3, 20, [4], [1], 0.5, 0.0)).train()
    x = torch.randn(4, 30, 12)
    for silenced, alive in (("ffn.fc2", "self_attn.out_proj"), ("self_attn.out_proj", "ffn.fc2")):
        kept = {name: layer.get_submodule(name).weight.detach().clone() for name in (silenced, alive)}
        bias = layer.get_submodule(silenced).bias.detach().clone()
        with torch.no_grad():
            layer.get_submodule(silenced).weight.zero_()
            layer.get_submodule(silenced).bias.zero_()
        dropped = (layer(x) == x).double().mean().item()
        assert dropped == pytest.approx(0.5, abs=0.06)
        with torch.no_grad():
            layer.get_submodule(silenced).weight.copy_(kept[silenced])
            layer.get_submodule(silenced).bias.copy_(bias)


def test_drop_path_grows_linearly_over_the_blocks():
    layers = small_vit(depth=5, drop_path_rate=0.1).encoder.layers
    rates = [getattr(layer.drop_path, "drop_prob", 0.0) for layer in layers]
    assert rates == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    published = LongNetViT.__init__.__defaults__
    assert published[-4:-2] == (0.25, 0.1)  # dropout and drop path


# ---------------------------------------------------------------------------- names and shapes
def manifest():
    """Parameters of the published ``slide_encoder.pth``."""
    shapes = {
        "cls_token": [1, 1, 768],
        "patch_embed.proj.weight": [768, 1536],
        "patch_embed.proj.bias": [768],
        "norm.weight": [768],
        "norm.bias": [768],
        "encoder.layer_norm.weight": [768],
        "encoder.layer_norm.bias": [768],
    }
    for n in range(12):
        for linear, (out, width) in {
            "self_attn.q_proj": (768, 768),
            "self_attn.k_proj": (768, 768),
            "self_attn.v_proj": (768, 768),
            "self_attn.out_proj": (768, 768),
            "ffn.fc1": (3072, 768),
            "ffn.fc2": (768, 3072),
        }.items():
            shapes[f"encoder.layers.{n}.{linear}.weight"] = [out, width]
            shapes[f"encoder.layers.{n}.{linear}.bias"] = [out]
        for norm, width in {
            "self_attn.inner_attn_ln": 768,
            "self_attn_layer_norm": 768,
            "ffn.ffn_layernorm": 3072,
            "final_layer_norm": 768,
        }.items():
            shapes[f"encoder.layers.{n}.{norm}.weight"] = [width]
            shapes[f"encoder.layers.{n}.{norm}.bias"] = [width]
    return shapes


def test_published_size_has_the_published_parameters():
    with torch.device("meta"):
        vit = LongNetViT()
    shapes = {name: list(value.shape) for name, value in vit.state_dict().items()}
    assert shapes == manifest() and len(shapes) == 247
    assert sum(p.numel() for p in vit.parameters()) == 86_330_880
    assert vit.encoder.layers[0].self_attn.num_heads == 16
    lengths = torch.linspace(10, 20, 5, dtype=torch.float64)
    assert vit.encoder.layers[11].self_attn.segments == tuple(int(2**x) for x in lengths.tolist())
    assert vit.encoder.layers[11].self_attn.ratios == (1, 2, 4, 8, 16)
    assert vit.encoder.layers[0].final_layer_norm.eps == 1e-5


# ---------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 18, "num_heads": 2}, "embed_dim 18 is no multiple of 4"),
        ({"num_heads": 3}, "embed_dim 16 is not divisible by num_heads 3"),
        ({"dilated_ratios": [2, 4]}, "the first dilated ratio must be 1, not 2"),
        ({"dilated_ratios": [1]}, "2 segment_lengths but 1 dilated_ratios"),
        ({"dilated_ratios": [], "segment_lengths": []}, "at least one"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_vit(**changes)

"""The slide encoder behind the interface of the adapter, and loading its official file."""

import logging

import pytest
import torch

from models.prov_gigapath.backbone import GigaPathBackbone
from tests.small_cohort import small_longnet

CONFIG = small_longnet(grid_size=200)


@pytest.fixture
def backbone(randomise):
    return randomise(GigaPathBackbone(**CONFIG)).eval()


def save(path, backbone, **changes):
    """A file in the layout of ``slide_encoder.pth``; a change of None removes an entry."""
    state = {**backbone.vit.state_dict(), **changes}
    torch.save({"model": {k: v for k, v in state.items() if v is not None}, "epoch": 3}, path)
    return path


# ---------------------------------------------------------------------------- embedding
def test_patches_carry_their_positions_and_cls_none(backbone, make_case):
    case = make_case(9)
    cls, patches, context = backbone.embed(case, 2)
    expected = backbone.vit.patch_embed.proj(case.features) + backbone.vit.positions(case.coords)
    assert context is None
    torch.testing.assert_close(patches, expected.expand(2, -1, -1))
    assert torch.equal(cls, backbone.vit.cls_token.expand(2, -1, -1))


def test_the_grid_extent_is_in_level0_pixels(backbone):
    assert backbone.grid_extent == 200 * 256
    assert GigaPathBackbone(**{**CONFIG, "grid_size": 1000}).grid_extent == 256_000


def test_training_drops_a_quarter_of_the_embedded_input(backbone, make_case):
    backbone.train()
    torch.manual_seed(0)
    cls, patches, _ = backbone.embed(make_case(200), 3)
    assert (patches == 0).double().mean().item() == pytest.approx(0.25, abs=0.02)
    plain = backbone.eval().embed(make_case(200), 3)[1]
    kept = patches != 0
    torch.testing.assert_close(patches[kept], plain[kept] / 0.75)
    assert not torch.equal(kept[0], kept[1]) and not torch.equal(kept[1], kept[2])
    assert (cls == 0).any()


def test_training_drops_inside_the_blocks_and_evaluation_nothing(backbone):
    tokens = torch.randn(1, 12, 24)
    block = backbone.blocks[1]
    backbone.train()
    assert not torch.equal(backbone.run(block, tokens, None), backbone.run(block, tokens, None))
    backbone.eval()
    assert torch.equal(backbone.run(block, tokens, None), backbone.run(block, tokens, None))


def test_the_image_token_is_cls_without_a_norm(backbone):
    cls = torch.randn(3, 1, 24)
    assert backbone.pool(cls, torch.randn(3, 5, 24), None) is cls


def test_patches_outside_the_grid_are_reported_with_the_case(backbone, make_case, caplog):
    coords = torch.tensor([[0, 0], [200 * 256, 0], [0, -1], [200 * 256 - 1, 0]])
    with caplog.at_level(logging.WARNING):
        backbone.embed(make_case(4, seed=5, coords=coords), 1)
    assert "case case-5: 2 of 4 patches lie outside the 200 x 200 position grid" in caplog.text


def test_inside_the_grid_nothing_is_said(backbone, make_case, caplog):
    with caplog.at_level(logging.WARNING):
        backbone.embed(make_case(50), 1)
    assert not caplog.text


@pytest.mark.parametrize("width", [9, 11])
def test_features_of_another_encoder_name_the_case(backbone, make_case, width):
    with pytest.raises(ValueError, match=rf"case-3: patch features are {width} wide.*takes 10"):
        backbone.embed(make_case(4, seed=3, in_dim=width), 1)


# ---------------------------------------------------------------------------- official weights
def test_the_official_layout_loads(backbone, tmp_path, make_case, caplog):
    other = GigaPathBackbone(**CONFIG).eval()
    with caplog.at_level(logging.INFO):
        other.load_pretrained(save(tmp_path / "slide_encoder.pth", backbone))
    assert all(
        torch.equal(a, b)
        for a, b in zip(other.state_dict().values(), backbone.state_dict().values(), strict=True)
    )
    assert "loaded" in caplog.text and not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_position_table_in_the_file_is_tolerated_in_silence(backbone, tmp_path, caplog):
    path = save(tmp_path / "s.pth", backbone, pos_embed=torch.zeros(1, 11, 24))
    with caplog.at_level(logging.WARNING):
        backbone.load_pretrained(path)
    assert not caplog.text


def test_unexpected_parameters_are_reported(backbone, tmp_path, caplog):
    path = save(tmp_path / "s.pth", backbone, **{"head.weight": torch.zeros(3)})
    with caplog.at_level(logging.WARNING):
        backbone.load_pretrained(path)
    assert "1 unexpected" in caplog.text and "head.weight" in caplog.text


@pytest.mark.parametrize(
    "name", ["cls_token", "encoder.layers.1.self_attn.inner_attn_ln.weight", "norm.bias"]
)
def test_missing_parameters_are_an_error(backbone, tmp_path, name):
    with pytest.raises(ValueError, match=rf"s\.pth does not fit.*1 parameters missing \['{name}'\]"):
        backbone.load_pretrained(save(tmp_path / "s.pth", backbone, **{name: None}))


def test_another_size_is_an_error(backbone, tmp_path):
    wide = GigaPathBackbone(**{**CONFIG, "ffn_dim": 28})
    with pytest.raises(ValueError, match=r"of another shape.*\(28, 24\), should be \(20, 24\)"):
        backbone.load_pretrained(save(tmp_path / "s.pth", wide))


@pytest.mark.parametrize("content", [{}, {"model": None}, {"state": {}}, [1, 2], torch.zeros(3)])
def test_other_files_are_named(backbone, tmp_path, content):
    torch.save(content, tmp_path / "s.pth")
    with pytest.raises(ValueError, match=r"s\.pth holds .* of the Prov-GigaPath slide encoder"):
        backbone.load_pretrained(tmp_path / "s.pth")


def test_an_absent_file_says_where_to_get_it(backbone, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        backbone.load_pretrained(tmp_path / "slide_encoder.pth")
    for part in ("slide_encoder.pth", "huggingface.co/prov-gigapath", "MODALTUNE_GIGAPATH_SLIDE_ENCODER"):
        assert part in str(caught.value)

"""GigaPath-Flash's slide encoder: published shape, float64 oracle at its own heads, its file."""

from dataclasses import replace

import pytest
import torch

from models.encoders import slide_encoder
from models.gigapath_flash.backbone import GigaPathFlashBackbone
from models.prov_gigapath.backbone import GigaPathBackbone
from models.slide_backbone import build_backbone
from tests import oracle
from tests.models.prov_gigapath.test_dilated_attention import oracle as dilated_oracle
from tests.small_cohort import small_longnet
from utils.files import read_json

FLASH = slide_encoder("gigapath_flash")
# 16 heads of 24, as published, on every ratio; the rest is small.
CONFIG = small_longnet(
    embed_dim=384, num_heads=16, ffn_dim=48, segment_lengths=[8, 12, 40], dilated_ratios=[1, 2, 16]
)


def published(name):
    with torch.device("meta"):
        return build_backbone(name, read_json(slide_encoder(name).config)["slide_encoder"])


TOP = {
    "cls_token": (1, 1, 384),
    "patch_embed.proj.weight": (384, 384),
    "patch_embed.proj.bias": (384,),
    "encoder.layer_norm.weight": (384,),
    "encoder.layer_norm.bias": (384,),
    "norm.weight": (384,),
    "norm.bias": (384,),
}
BLOCK = {
    **{f"self_attn.{p}_proj.weight": (384, 384) for p in ("q", "k", "v", "out")},
    **{f"self_attn.{p}_proj.bias": (384,) for p in ("q", "k", "v", "out")},
    **{
        f"{norm}.{kind}": (384,)
        for norm in ("self_attn.inner_attn_ln", "self_attn_layer_norm", "final_layer_norm")
        for kind in ("weight", "bias")
    },
    "ffn.fc1.weight": (1536, 384),
    "ffn.fc1.bias": (1536,),
    "ffn.fc2.weight": (384, 1536),
    "ffn.fc2.bias": (384,),
    "ffn.ffn_layernorm.weight": (1536,),
    "ffn.ffn_layernorm.bias": (1536,),
}


def test_published_config_has_the_published_parameters():
    flash, giga = published("gigapath_flash"), published("gigapath")
    wanted = TOP | {f"encoder.layers.{n}.{name}": shape for n in range(12) for name, shape in BLOCK.items()}
    assert {name: tuple(value.shape) for name, value in flash.vit.state_dict().items()} == wanted
    assert flash.vit.state_dict().keys() == giga.vit.state_dict().keys()
    assert sum(p.numel() for p in flash.parameters()) == 21_489_408
    attention = flash.blocks[0].self_attn
    assert attention.num_heads == 16 and attention.q_proj.out_features // attention.num_heads == 24
    assert (attention.segments, attention.ratios) == (
        giga.blocks[0].self_attn.segments,
        giga.blocks[0].self_attn.ratios,
    )
    assert flash.feature_dim == 384 and flash.grid_extent == giga.grid_extent == 256_000


def test_both_configs_differ_from_gigapaths_in_sizes_only():
    for kind in ("config", "balanced_config", "demo_config", "demo_balanced_config"):
        ours, theirs = (read_json(getattr(slide_encoder(n), kind)) for n in ("gigapath_flash", "gigapath"))
        for config in (ours, theirs):
            for size in ("in_dim", "embed_dim", "ffn_dim", "num_heads"):
                config["slide_encoder"].pop(size)
        assert ours == theirs


@pytest.mark.parametrize("length", [1, 9, 37])
def test_equals_oracle_in_float64(length, make_case, randomise):
    backbone = randomise(GigaPathFlashBackbone(**CONFIG), scale=0.1).double().eval()
    vit = backbone.vit
    places = torch.stack([torch.zeros(vit.grid_size), torch.arange(vit.grid_size)], dim=1)
    vit.axis_positions = oracle.position_code(places, vit.embed_dim)[:, : vit.embed_dim // 2]
    case = make_case(length, dtype=torch.float64)
    slow = oracle.GigaPath(vit.state_dict(), CONFIG, dilated_oracle)
    tokens = torch.cat(slow.embed(case))
    for block in range(2):
        tokens = slow.block(tokens, block)
    torch.testing.assert_close(backbone(case)[0, 0], slow.pool(tokens), rtol=1e-9, atol=1e-9)
    other = replace(case, coords=case.coords + 256)
    assert not torch.allclose(backbone(other), backbone(case))


# ---------------------------------------------------------------------------- its file
def test_its_file_loads_and_a_position_table_is_ignored(tmp_path, make_case, randomise, caplog):
    backbone, other = (GigaPathFlashBackbone(**CONFIG).eval() for _ in range(2))
    state = randomise(backbone, scale=0.1).vit.state_dict()
    torch.save({"model": state | {"pos_embed": torch.zeros(1, 5, 384)}}, tmp_path / "slide_encoder.pth")
    other.load_pretrained(tmp_path / "slide_encoder.pth")
    assert torch.equal(other(make_case(9)), backbone(make_case(9)))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_the_file_of_prov_gigapath_is_refused(tmp_path):
    wide = GigaPathBackbone(**{**CONFIG, "embed_dim": 768})
    torch.save({"model": wide.vit.state_dict()}, tmp_path / "slide_encoder.pth")
    with pytest.raises(
        ValueError, match=r"does not fit the GigaPath-Flash slide encoder.*\(1, 1, 768\), should be"
    ):
        GigaPathFlashBackbone(**CONFIG).load_pretrained(tmp_path / "slide_encoder.pth")


def test_an_absent_file_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        GigaPathFlashBackbone(**CONFIG).load_pretrained(tmp_path / "slide_encoder.pth")
    for part in ("prov-gigapath-flash", "fetch gigapath_flash", "MODALTUNE_GIGAPATH_FLASH_SLIDE_ENCODER"):
        assert part in str(caught.value)


def test_features_of_gigapath_are_refused_by_name(make_case):
    with pytest.raises(
        ValueError, match=r"case-3: patch features are 15 wide.*takes 10.*another tile encoder"
    ):
        GigaPathFlashBackbone(**CONFIG).embed(make_case(4, seed=3, in_dim=15), 1)

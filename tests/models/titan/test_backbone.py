"""TITAN as a backbone: its own output against the oracle, what it does to the patches, its weights."""

import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from models.slide_backbone import build_backbone
from tests import oracle

PATCH = 1024


@pytest.fixture
def backbone(tiny_titan_config, randomise):
    return randomise(build_backbone("titan", tiny_titan_config["slide_encoder"]), scale=0.3).eval()


@pytest.fixture
def make_grid_case(make_case):
    """Neighbouring patches in random order, at negative offsets."""

    def make(length=20, dtype=torch.float32, **changes):
        case = make_case(length, dtype=dtype, patch_size_lv0=PATCH)
        cells = torch.randperm(36, generator=torch.Generator().manual_seed(0))[:length]
        coords = torch.stack([cells // 6, cells % 6], dim=1) * PATCH - 2 * PATCH - 100
        return replace(case, coords=coords, **changes)

    return make


def expected_output(backbone, config, case):
    state = {name: value.double() for name, value in backbone.vit.state_dict().items()}
    reference = oracle.Titan(state, config["slide_encoder"])
    cls, tokens = reference.embed(replace(case, features=case.features.double()))
    tokens = torch.cat([cls, tokens])
    for number in range(len(backbone.blocks)):
        tokens = reference.block(tokens, number)
    return reference.pool(tokens)


# ---------------------------------------------------------------------------- forward
@pytest.mark.parametrize("length", [1, 20])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_its_own_output_equals_the_oracle(
    backbone, make_grid_case, tiny_titan_config, length, dtype, tolerance
):
    case = make_grid_case(length, dtype)
    expected = expected_output(backbone, tiny_titan_config, case)
    out = backbone.to(dtype)(case)
    assert out.shape == (1, 1, 48)
    torch.testing.assert_close(out[0, 0].double(), expected, rtol=tolerance, atol=tolerance)


def test_tokens_are_cells_in_order(backbone, make_grid_case):
    case = make_grid_case(36)
    coords, features = case.coords.clone(), case.features.clone()
    coords[1] = coords[0] + 9  # two on one cell
    features[2] = 0  # background
    case = replace(case, coords=coords, features=features)
    cls, patches, cells = backbone.embed(case, 2)
    assert cls.shape == (2, 1, 48) and patches.shape == (2, 34, 48)
    expected_cells, summed = oracle.titan_grid(features, coords, PATCH)
    assert cells[1:].tolist() == [list(cell) for cell in expected_cells]
    torch.testing.assert_close(patches[1], backbone.vit.patch_embed(summed))


def test_the_order_of_the_patches_does_not_matter(backbone, make_grid_case):
    case = make_grid_case()
    order = torch.randperm(20)
    shuffled = replace(case, coords=case.coords[order], features=case.features[order])
    assert torch.equal(backbone(shuffled), backbone(case))


def test_positions_matter(backbone, make_grid_case):
    case = make_grid_case()
    rolled = replace(case, coords=case.coords.roll(1, dims=0))
    assert not torch.allclose(backbone(rolled), backbone(case), rtol=1e-3)


def test_training_mode_draws_nothing(backbone, make_grid_case):
    case = make_grid_case()
    assert torch.equal(backbone.train()(case, 2), backbone.eval()(case, 2))


# ---------------------------------------------------------------------------- bad cases
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size_lv0": None}, r"case case-0: no patch_size_level0.*--patch_size_lv0"),
        ({"patch_size_lv0": 100 * PATCH}, r"case case-0: .*102400, 20 of 20 patches.*suggest"),
        ({"features": torch.zeros(20, 10)}, r"case case-0: all patch features are zero"),
        ({"features": torch.zeros(20, 11)}, r"case case-0: patch features are 11 wide.*takes 10"),
    ],
)
def test_bad_cases_are_named(backbone, make_grid_case, changes, message):
    with pytest.raises(ValueError, match=message):
        backbone.embed(make_grid_case(**changes), 1)


# ---------------------------------------------------------------------------- weights
def write_weights(backbone, path, drop=()):
    """As in the official file, which also holds the text encoder."""
    state = {f"vision_encoder.{name}": value.clone() for name, value in backbone.vit.state_dict().items()}
    state["text_encoder.token_embedding.weight"] = torch.zeros(3, 2)
    save_file({name: value for name, value in state.items() if name not in drop}, path)


def test_official_weights_are_loaded(backbone, make_grid_case, tiny_titan_config, tmp_path, caplog):
    write_weights(backbone, tmp_path / "model.safetensors")
    other = build_backbone("titan", tiny_titan_config["slide_encoder"])
    with caplog.at_level(logging.INFO):
        other.load_pretrained(tmp_path / "model.safetensors")
    assert torch.equal(other(make_grid_case()), backbone(make_grid_case()))
    assert "loaded 96 tensors" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_missing_parameters_are_refused(backbone, tmp_path):
    write_weights(
        backbone, tmp_path / "m.safetensors", drop={"vision_encoder.blocks.modules_list.3.norm1.bias"}
    )
    with pytest.raises(ValueError, match=r"m\.safetensors.*1 parameters missing.*modules_list\.3\.norm1"):
        backbone.load_pretrained(tmp_path / "m.safetensors")


def test_another_width_is_refused(backbone, tiny_titan_config, tmp_path):
    write_weights(backbone, tmp_path / "m.safetensors")
    other = build_backbone("titan", {**tiny_titan_config["slide_encoder"], "in_dim": 11})
    with pytest.raises(ValueError, match=r"patch_embed\.0\.weight is \(48, 10\), should be \(48, 11\)"):
        other.load_pretrained(tmp_path / "m.safetensors")


def test_a_missing_file_says_where_to_get_it(backbone, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"MahmoodLab/TITAN.*TITAN_SLIDE_ENCODER"):
        backbone.load_pretrained(tmp_path / "nothing.safetensors")


def test_a_file_of_something_else_is_refused(backbone, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"m\.safetensors is no readable checkpoint of the TITAN slide"):
        backbone.load_pretrained(path)
    save_file({"text_encoder.weight": torch.zeros(2)}, path)
    with pytest.raises(
        ValueError, match=r"m\.safetensors has no entry for .*none starts with 'vision_encoder\.'"
    ):
        backbone.load_pretrained(path)
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="holds no tensor of"):
        backbone.load_pretrained(path)

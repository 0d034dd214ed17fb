"""The demo's checkpoints for TITAN: official form, reproducible, and the planted signal survives them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from data_utils.cases.case import Case
from data_utils.demo import checkpoints, histology
from data_utils.slides.tile_reading import TileRecipe
from models.titan.backbone import TitanBackbone
from models.titan.conch_v1_5 import build_conch_v1_5, load_conch_v1_5
from tests.data_utils.test_make_demo_cohort import patients, probe
from utils import constants
from utils.files import read_json


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """The weights folder of a demo."""
    root = tmp_path_factory.mktemp("demo") / "weights"
    checkpoints.write_checkpoints(root, seed=3)
    return root


@pytest.fixture
def backbone(weights) -> TitanBackbone:
    titan = TitanBackbone(**checkpoints.demo_config("modaltune_titan_config")["slide_encoder"])
    titan.load_pretrained(weights / "titan" / "model.safetensors")
    return titan.eval()


def digests(root: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in files
    }


def image_token(backbone: TitanBackbone, case: Case) -> torch.Tensor:
    with torch.no_grad():
        cls, patches, context = backbone.embed(case, 1)
        tokens = torch.cat([cls, patches], dim=1)
        for block in backbone.blocks:
            tokens = backbone.run(block, tokens, context)
        return backbone.pool(tokens[:, :1], tokens[:, 1:], context).flatten()


# ---------------------------------------------------------------------------- files
def test_checkpoints_lie_where_constants_look_for_them(weights):
    for path in (constants.CONCH_V1_5, constants.TITAN_SLIDE_ENCODER):
        assert (weights / path.parent.name / path.name).is_file()


def test_patch_encoder_has_the_official_names(weights):
    state = torch.load(weights / "titan" / "pytorch_model_vision.bin", weights_only=True)
    with torch.device("meta"):
        published = build_conch_v1_5(read_json(constants.CONFIGS_ROOT / "conch_v1_5.json")).state_dict()
    shallow = {
        name for name in published if not name.startswith("trunk.blocks.") or name[13:15] in ("0.", "1.")
    }
    assert state.keys() == shallow


def test_slide_encoder_has_the_official_prefix(weights):
    with safe_open(weights / "titan" / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
        assert file.metadata() == {"format": "pt"}
    assert len(names) > 90 and all(name.startswith("vision_encoder.") for name in names)


def test_folder_of_an_older_demo_gains_what_is_missing(weights):
    before = digests(weights)
    assert len(before) == 8
    for name in ("titan/model.safetensors", "titan/pytorch_model_vision.bin"):
        (weights / name).unlink()
    checkpoints.write_checkpoints(weights, seed=3)
    after = digests(weights)
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    for name in before:
        assert (after[name] == before[name]) == (not name.startswith("titan/")), name


@pytest.mark.parametrize("make", [checkpoints.conch_v1_5_state, checkpoints.titan_state])
def test_weights_depend_on_the_seed_alone(make, monkeypatch):
    monkeypatch.setattr("data_utils.demo.weights.CALIBRATION_TILES", 4)  # for speed
    states = []
    for seed, other in ((3, 0), (3, 1), (4, 1)):
        torch.manual_seed(other)
        states.append(make(seed))
    one, again, different = states
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], different[name]) for name in one)
    assert all(value.isfinite().all() for value in one.values())


# ---------------------------------------------------------------------------- signal
def test_patch_features_show_subtype_and_aggressiveness(weights):
    config = checkpoints.demo_config("conch_v1_5")
    recipe = TileRecipe.from_config("demo", config)
    encoder = load_conch_v1_5(config, weights / "titan" / "pytorch_model_vision.bin")
    group = [patient for patient in patients(scale=1.0) if patient.subtype >= 0 and patient.slides][:90]
    mask, tiles = np.ones((256, 256), dtype=np.float32), []
    for patient in group:
        slide = patient.slides[0]
        rng = np.random.default_rng(slide.seed)
        picture = histology.paint_tissue(mask, slide.look, slide.grade, slide.tissue, 0.5, rng)
        tiles.append(recipe.prepare(Image.fromarray(picture)))
    with torch.no_grad():
        features = encoder(recipe.normalise(torch.from_numpy(np.stack(tiles)))).half().float().numpy()
    labels = np.array([patient.subtype for patient in group])
    assert np.isfinite(features).all()
    assert probe(features, labels) > 0.7
    assert probe(features[np.random.default_rng(0).permutation(len(labels))], labels) < 0.68
    component = np.c_[PCA(8).fit_transform(StandardScaler().fit_transform(features)), np.ones(len(group))]
    aggressiveness = np.array([patient.aggressiveness for patient in group])
    fit = np.linalg.lstsq(component, aggressiveness, rcond=None)[0]
    assert np.corrcoef(component @ fit, aggressiveness)[0, 1] > 0.7


def test_slides_differ_in_their_image_token(backbone):
    generator = torch.Generator().manual_seed(0)
    cells = torch.cartesian_prod(torch.arange(3), torch.arange(3))

    def case(shift: float) -> Case:
        features = 0.7 * torch.randn(9, 64, generator=generator) + shift
        return Case("a", "a", "a", features=features, coords=cells * 512, patch_size_lv0=512)

    one, two = (image_token(backbone, case(shift)) for shift in (0.5, -0.5))
    assert one.shape == (96,) and one.isfinite().all() and two.isfinite().all()
    assert torch.nn.functional.cosine_similarity(one, two, dim=0) < 0.95


def test_slides_of_a_single_patch_are_embedded(backbone):
    """Half a millimetre of tissue gives one tile of 512 px."""
    features = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    case = Case("a", "a", "a", features=features, coords=torch.tensor([[1024, 0]]), patch_size_lv0=1024)
    assert image_token(backbone, case).isfinite().all()

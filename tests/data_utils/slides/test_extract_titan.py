"""The TITAN entry point: official preprocessing, measured patch_size_level0, the shared extraction core."""

import re

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms

from data_utils import TCGA_extract_feats_TITAN as titan
from data_utils.features.store import FeatureMeta, read_features, write_features
from data_utils.slides.extraction import extract_cohort
from data_utils.slides.tile_reading import TileRecipe
from models.slide_backbone import SlideBackbone
from models.titan.conch_v1_5 import build_conch_v1_5
from models.titan.vision_encoder import TitanVisionEncoder
from tests.data_utils.slides.test_wsi import tissue_slide, write_slide
from utils import constants
from utils.files import read_json, write_json

DEMO_CONFIG = constants.CONFIGS_ROOT / "demo_conch_v1_5.json"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A small config, weights for it, and slides of 2 tiles at three resolutions."""
    folder = tmp_path_factory.mktemp("library")
    config = read_json(DEMO_CONFIG)
    config["model_args"] |= {"img_size": 64, "embed_dim": 16, "num_heads": 2}
    config |= {"model_pooler": {"embed_dim": 8, "num_heads": 2}, "resize": 64, "input_size": 64}
    write_json(folder / "conch_small.json", config)
    torch.manual_seed(0)
    encoder = build_conch_v1_5(config)
    torch.nn.init.normal_(encoder.trunk.cls_token)
    torch.save(encoder.state_dict(), folder / "vision.bin")
    for name, mpp in (("TCGA-AA-0001", 0.25), ("TCGA-AA-0002", 0.5), ("TCGA-AA-0003", 1.0)):
        side = round(1088 * 0.5 / mpp)
        image = tissue_slide(side, (0, 0, side, side), seed=round(8 * mpp))[: round(700 * 0.5 / mpp)]
        write_slide(folder / "slides" / f"{name}.svs", image, mpp, (1, 2))
    return folder


@pytest.fixture
def command(tmp_path, library):
    """Calls the entry point on the slides of the library."""

    def call(*flags):
        defaults = {
            "--onco": "TEST",
            "--slides_dir": library / "slides",
            "--output_dir": tmp_path / "out",
            "--encoder_config": library / "conch_small.json",
            "--checkpoint": library / "vision.bin",
            "--workers": 0,
            "--device": "cpu",
        }
        words = [word for item in defaults.items() for word in item]
        return titan.main([str(word) for word in [*words, *flags]])

    return call


# ---------------------------------------------------------------------------- recipe
@pytest.mark.parametrize("name", ["conch_v1_5", "demo_conch_v1_5"])
def test_shipped_recipe_prepares_tiles_as_published(name):
    recipe = TileRecipe.from_config(name, read_json(constants.CONFIGS_ROOT / f"{name}.json"))
    assert (recipe.tile_size, recipe.target_mpp) == (512, 0.5)
    published = transforms.Compose(
        [
            transforms.Resize(recipe.input_size, interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(recipe.input_size),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    tile = Image.fromarray(pixels)
    ours = recipe.normalise(torch.from_numpy(recipe.prepare(tile).copy())[None])[0]
    assert ours.shape == (3, recipe.input_size, recipe.input_size)
    torch.testing.assert_close(ours, published(tile), atol=1e-6, rtol=0)


def test_defaults_are_titans(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "CONCH_V1_5", tmp_path / "vision.bin")
    args = titan.parse_args(["--onco", "BRCA"])
    assert args.encoder == "titan" and args.checkpoint == tmp_path / "vision.bin"
    assert args.encoder_config == constants.CONFIGS_ROOT / "conch_v1_5.json"


# ---------------------------------------------------------------------------- feature files
def test_patch_size_level0_is_measured_per_slide(command, tmp_path):
    assert command() == 0
    for name, mpp in (("TCGA-AA-0001", 0.25), ("TCGA-AA-0002", 0.5), ("TCGA-AA-0003", 1.0)):
        slide = read_features(tmp_path / "out" / f"{name}.h5")
        size = round(512 * 0.5 / mpp)
        assert slide.patch_size_level0 == size
        assert slide.coords.tolist() == [[0, 0], [size, 0]]
        assert (slide.meta.patch_size, slide.meta.target_mpp, slide.meta.level0_mpp) == (512, 0.5, mpp)
        assert slide.meta.encoder == "conch_small"
        assert slide.features.shape == (2, 8)
        with h5py.File(tmp_path / "out" / f"{name}.h5") as file:  # where TITAN's own code looks
            assert int(file["coords"].attrs["patch_size_level0"]) == size


def test_features_are_those_of_the_encoder(command, tmp_path, library):
    assert command() == 0
    config = read_json(library / "conch_small.json")
    recipe = TileRecipe.from_config("conch_small", config)
    encoder = build_conch_v1_5(config).eval()
    encoder.load_state_dict(torch.load(library / "vision.bin", weights_only=True))
    slide = read_features(tmp_path / "out" / "TCGA-AA-0002.h5")
    image = tissue_slide(1088, (0, 0, 1088, 1088), seed=4)[:700]
    tiles = [Image.fromarray(image[y : y + 512, x : x + 512]) for x, y in slide.coords]
    with torch.no_grad():
        wanted = encoder(recipe.normalise(torch.from_numpy(np.stack([recipe.prepare(t) for t in tiles]))))
    np.testing.assert_allclose(slide.features, wanted.numpy(), atol=2e-3)  # stored as float16
    assert not np.allclose(slide.features[0], slide.features[1], atol=2e-3)


def test_goes_through_the_shared_core(command, tmp_path, monkeypatch):
    calls = []

    def watched(slides, *args, **options):
        calls.append([path.stem for path in slides])
        return extract_cohort(slides, *args, **options)

    monkeypatch.setattr("data_utils.slides.command_line.extract_cohort", watched)
    assert command("--limit", 2) == 0
    assert calls == [["TCGA-AA-0001", "TCGA-AA-0002"]]


def test_files_of_another_encoder_are_not_mixed_in(command, tmp_path, library, caplog):
    assert command() == 0
    other = tmp_path / "conch_other.json"
    write_json(other, read_json(library / "conch_small.json"))
    assert command("--encoder_config", other) == 1
    assert "encoder conch_small instead of conch_other" in caplog.text


def test_paths_of_the_cohort_come_from_constants(command, tmp_path, library, monkeypatch):
    monkeypatch.setattr(constants, "DATA_ROOT", tmp_path)
    monkeypatch.setattr(constants, "FEATURES_ROOT", tmp_path / "features")
    (tmp_path / "TCGA-BRCA").mkdir()
    (tmp_path / "TCGA-BRCA" / "images").symlink_to(library / "slides")
    flags = ["--onco", "brca", "--workers", "0", "--device", "cpu", "--limit", "1"]
    flags += ["--encoder_config", str(library / "conch_small.json")]
    assert titan.main([*flags, "--checkpoint", str(library / "vision.bin")]) == 0
    written = list((tmp_path / "features" / "titan" / "TCGA-BRCA").glob("*.h5"))
    assert [path.stem for path in written] == ["TCGA-AA-0001"]


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--checkpoint", "absent.bin", r"CONCH v1.5.*absent\.bin"),
        ("--encoder_config", "absent.json", r"absent\.json"),
        ("--encoder_config", constants.CONFIGS_ROOT / "gigapath_tile_encoder.json", "model_pooler"),
        ("--encoder_config", DEMO_CONFIG, "does not fit the CONCH v1.5"),
    ],
)
def test_wrong_weights_or_configs_stop_before_extraction(command, tmp_path, caplog, flag, value, message):

    assert command(flag, value) == 2
    assert re.search(message, caplog.text)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------- slide embeddings
@pytest.fixture(scope="module")
def slide_encoder(tmp_path_factory):
    """Flags of a small TITAN that fits the small patch encoder."""
    folder = tmp_path_factory.mktemp("titan")
    shape = {"in_dim": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "pooler_heads": 2, "pooler_queries": 3}
    write_json(folder / "model.json", {"slide_encoder": shape})
    torch.manual_seed(0)
    vit = TitanVisionEncoder(**shape)
    state = {f"vision_encoder.{name}": torch.randn_like(value) for name, value in vit.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return {"--slide_config": folder / "model.json", "--slide_checkpoint": folder / "model.safetensors"}


@pytest.fixture
def embed(command, tmp_path, slide_encoder):
    """Calls the entry point with --slide_embeddings; returns exit status and embeddings."""

    def call(*flags, name="titan.pt", **changes):
        named = slide_encoder | changes
        status = command("--slide_embeddings", *[word for item in named.items() for word in item], *flags)
        path = tmp_path / "out" / "slide_embeddings" / name
        return status, torch.load(path, weights_only=True) if path.exists() else None

    return call


def write_patches(path, cells, size, features, stated=True):
    meta = FeatureMeta(512, size if stated else None, 256 / size, 0.5, "conch_small")
    write_features(path, features, np.asarray(cells) * size + 7, meta, dtype="float32")


def test_slide_embeddings_follow_the_features(embed, tmp_path):
    status, embeddings = embed()
    assert status == 0
    assert sorted(embeddings) == ["TCGA-AA-0001", "TCGA-AA-0002", "TCGA-AA-0003"]
    for vector in embeddings.values():
        assert vector.shape == (16,) and vector.dtype == torch.float32 and vector.isfinite().all()
    assert not torch.allclose(embeddings["TCGA-AA-0001"], embeddings["TCGA-AA-0002"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "TCGA-AA-0001.h5",
        "TCGA-AA-0002.h5",
        "TCGA-AA-0003.h5",
        "extraction_report.csv",
        "slide_embeddings",
    ]


def test_no_slide_embeddings_unless_asked_for(command, tmp_path):
    assert command() == 0
    assert not (tmp_path / "out" / "slide_embeddings").exists()


def test_embedding_runs_embed_blocks_pool(tmp_path):
    """A backbone whose steps leave a trace each: nothing is skipped, repeated or out of order."""

    class Traced(SlideBackbone):
        blocks = (2.0, 3.0)

        def embed(self, case, num_tasks):
            assert num_tasks == 1 and case.patch_size_lv0 == 1024
            return torch.zeros(1, 1, 2), case.features[None], case.coords

        def run(self, block, tokens, context):
            assert context.tolist() == [[7, 7], [1031, 7]]
            return tokens * block + 1

        def pool(self, cls, patches, context):
            return torch.cat([cls, patches.sum(dim=1, keepdim=True)], dim=-1)

        def read_pretrained(self, path):
            raise NotImplementedError

    write_patches(tmp_path / "a.h5", [(0, 0), (1, 0)], 1024, np.array([[1.0, 2.0], [3.0, 5.0]]))
    vector = titan.embed_slide(Traced(), tmp_path / "a.h5", torch.device("cpu"))
    cls = (0 * 2 + 1) * 3 + 1
    wanted = [cls, cls, 6 * (1 + 3) + 2 * cls, 6 * (2 + 5) + 2 * cls]
    assert vector.tolist() == wanted


def test_measured_patch_size_makes_the_resolution_irrelevant(slide_encoder, tmp_path):
    backbone = titan.load_slide_encoder(*slide_encoder.values())
    assert not backbone.training and not any(value.requires_grad for value in backbone.parameters())
    features = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    cells = np.array([(0, 0), (1, 0), (2, 0), (0, 1), (2, 3)])
    order = [3, 0, 4, 2, 1]
    write_patches(tmp_path / "fine.h5", cells, 1024, features)
    write_patches(tmp_path / "coarse.h5", cells, 256, features)
    write_patches(tmp_path / "shuffled.h5", cells[order], 512, features[order])
    write_patches(tmp_path / "elsewhere.h5", cells * 2, 512, features)
    fine, coarse, shuffled, elsewhere = (
        titan.embed_slide(backbone, tmp_path / f"{name}.h5", torch.device("cpu"))
        for name in ("fine", "coarse", "shuffled", "elsewhere")
    )
    torch.testing.assert_close(coarse, fine, rtol=0, atol=0)
    torch.testing.assert_close(shuffled, fine)
    assert not torch.allclose(elsewhere, fine, atol=1e-3)


def test_files_that_state_no_patch_size_need_the_flag(embed, tmp_path, caplog):
    cells, features = [(0, 0), (1, 0), (0, 1)], np.eye(3, 8)
    write_patches(tmp_path / "out" / "TCGA-AA-0009.h5", cells, 512, features, stated=False)
    status, embeddings = embed()
    assert status == 1 and "TCGA-AA-0009" not in embeddings and len(embeddings) == 3
    assert "TCGA-AA-0009 has no slide embedding" in caplog.text and "--patch_size_lv0" in caplog.text
    assert embed("--allow_failures", 1)[0] == 0
    status, with_flag = embed("--patch_size_lv0", 512)
    assert status == 0 and len(with_flag) == 4
    # Files that state it do not care for the flag.
    assert all(torch.equal(with_flag[name], vector) for name, vector in embeddings.items())


def test_damaged_features_lose_only_their_own_embedding(embed, tmp_path, caplog):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "TCGA-AA-0009.h5").write_bytes(b"no features")
    status, embeddings = embed()
    assert status == 1 and len(embeddings) == 3
    assert "TCGA-AA-0009.h5" in caplog.text


def test_shards_embed_their_own_slides(embed):
    parts = [embed("--shard", f"{i}/2", name=f"titan_{i}_of_2.pt") for i in (1, 2)]
    assert [status for status, _ in parts] == [0, 0]
    one, two = (set(part) for _, part in parts)
    assert not one & two and len(one | two) == 3


@pytest.mark.parametrize(
    ("flag", "content", "message"),
    [
        ("--slide_checkpoint", None, "TITAN_SLIDE_ENCODER"),
        ("--slide_config", None, "No such file"),
        ("--slide_config", {"gene_encoder": {}}, "'slide_encoder' is missing"),
        ("--slide_config", {"slide_encoder": {"embed_dim": 48}}, "does not fit the TITAN slide encoder"),
    ],
)
def test_wrong_slide_encoder_stops_before_extraction(embed, tmp_path, caplog, flag, content, message):
    if content is not None:
        write_json(tmp_path / "wrong", content)
    status, embeddings = embed(**{flag: tmp_path / "wrong"})
    assert status == 2 and embeddings is None and not (tmp_path / "out").exists()
    assert message in caplog.text

"""TITAN among the slide encoders."""

from models.encoders import HubFile, SlideEncoder, register_encoder
from utils import constants

REPO = "MahmoodLab/TITAN"
COMMIT = "b2fb4f475256eb67c6e9ccbf2d6c9c3f25f20791"
# The patch encoder has a repository of its own.
CONCH_REPO = "MahmoodLab/conchv1_5"
CONCH_COMMIT = "3e5766a5d1500d53c73c03005e24c30c1f27be13"

register_encoder(
    SlideEncoder(
        name="titan",
        prefix="titan",
        backbone="models.titan.backbone:TitanBackbone",
        weights=lambda: constants.TITAN_SLIDE_ENCODER,
        source=f"https://huggingface.co/{REPO}",
        config=constants.CONFIGS_ROOT / "modaltune_titan_config.json",
        threshold=15_000,
        demo_config=constants.CONFIGS_ROOT / "demo_modaltune_titan_config.json",
        balanced_config=constants.CONFIGS_ROOT / "modaltune_titan_balanced.json",
        demo_balanced_config=constants.CONFIGS_ROOT / "demo_modaltune_titan_balanced.json",
        hub=(
            HubFile(CONCH_REPO, "pytorch_model_vision.bin", lambda: constants.CONCH_V1_5, CONCH_COMMIT),
            HubFile(REPO, "model.safetensors", lambda: constants.TITAN_SLIDE_ENCODER, COMMIT),
        ),
        extraction="data_utils.TCGA_extract_feats_TITAN",
        tile_builder="models.titan.conch_v1_5:build_conch_v1_5",
        tile_reader="models.titan.conch_v1_5:read_conch_v1_5",
        tile_weights="CONCH_V1_5",
        tile_config=constants.CONFIGS_ROOT / "conch_v1_5.json",
        demo_tile_config=constants.CONFIGS_ROOT / "demo_conch_v1_5.json",
    )
)

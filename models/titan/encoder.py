"""TITAN among the slide encoders."""

from models.encoders import SlideEncoder, register_encoder
from utils import constants

register_encoder(
    SlideEncoder(
        name="titan",
        prefix="titan",
        backbone="models.titan.backbone:TitanBackbone",
        weights=lambda: constants.TITAN_SLIDE_ENCODER,
        source="https://huggingface.co/MahmoodLab/TITAN",
        config=constants.CONFIGS_ROOT / "modaltune_titan_config.json",
        threshold=15_000,
        demo_config=constants.CONFIGS_ROOT / "demo_modaltune_titan_config.json",
        balanced_config=constants.CONFIGS_ROOT / "modaltune_titan_balanced.json",
        demo_balanced_config=constants.CONFIGS_ROOT / "demo_modaltune_titan_balanced.json",
        extraction="data_utils.TCGA_extract_feats_TITAN",
        tile_builder="models.titan.conch_v1_5:build_conch_v1_5",
        tile_weights="CONCH_V1_5",
        tile_config=constants.CONFIGS_ROOT / "conch_v1_5.json",
        demo_tile_config=constants.CONFIGS_ROOT / "demo_conch_v1_5.json",
    )
)

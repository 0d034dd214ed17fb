"""Prov-GigaPath among the slide encoders."""

from models.encoders import SlideEncoder, register_encoder
from utils import constants

register_encoder(
    SlideEncoder(
        name="gigapath",
        prefix="longnetvit",
        backbone="models.prov_gigapath.backbone:GigaPathBackbone",
        weights=lambda: constants.GIGAPATH_SLIDE_ENCODER,
        source="https://huggingface.co/prov-gigapath/prov-gigapath",
        config=constants.CONFIGS_ROOT / "modaltune_gigapath_config.json",
        threshold=25_000,
        demo_config=constants.CONFIGS_ROOT / "demo_modaltune_gigapath_config.json",
        balanced_config=constants.CONFIGS_ROOT / "modaltune_gigapath_balanced.json",
        demo_balanced_config=constants.CONFIGS_ROOT / "demo_modaltune_gigapath_balanced.json",
        extraction="data_utils.TCGA_extract_feats_GIGAPATH",
        tile_builder="models.prov_gigapath.tile_encoder:build_tile_encoder",
        tile_weights="GIGAPATH_TILE_ENCODER",
        tile_config=constants.CONFIGS_ROOT / "gigapath_tile_encoder.json",
        demo_tile_config=constants.CONFIGS_ROOT / "demo_gigapath_tile_encoder.json",
        dilated=True,
    )
)

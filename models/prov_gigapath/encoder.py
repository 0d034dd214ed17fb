"""Prov-GigaPath among the slide encoders."""

from models.encoders import HubFile, SlideEncoder, register_encoder
from utils import constants

REPO = "prov-gigapath/prov-gigapath"
COMMIT = "eba85dd46097c3eedfcc2a3a9a930baecb6bcc19"

register_encoder(
    SlideEncoder(
        name="gigapath",
        prefix="longnetvit",
        backbone="models.prov_gigapath.backbone:GigaPathBackbone",
        weights=lambda: constants.GIGAPATH_SLIDE_ENCODER,
        source=f"https://huggingface.co/{REPO}",
        config=constants.CONFIGS_ROOT / "modaltune_gigapath_config.json",
        threshold=25_000,
        demo_config=constants.CONFIGS_ROOT / "demo_modaltune_gigapath_config.json",
        balanced_config=constants.CONFIGS_ROOT / "modaltune_gigapath_balanced.json",
        demo_balanced_config=constants.CONFIGS_ROOT / "demo_modaltune_gigapath_balanced.json",
        hub=(
            HubFile(REPO, "pytorch_model.bin", lambda: constants.GIGAPATH_TILE_ENCODER, COMMIT),
            HubFile(REPO, "slide_encoder.pth", lambda: constants.GIGAPATH_SLIDE_ENCODER, COMMIT),
        ),
        extraction="data_utils.TCGA_extract_feats_GIGAPATH",
        tile_builder="models.prov_gigapath.tile_encoder:build_tile_encoder",
        tile_reader="models.prov_gigapath.tile_encoder:read_tile_state",
        tile_weights="GIGAPATH_TILE_ENCODER",
        tile_config=constants.CONFIGS_ROOT / "gigapath_tile_encoder.json",
        demo_tile_config=constants.CONFIGS_ROOT / "demo_gigapath_tile_encoder.json",
        dilated=True,
    )
)

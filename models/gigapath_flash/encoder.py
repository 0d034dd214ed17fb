"""GigaPath-Flash among the slide encoders: Prov-GigaPath's design at the size of a laptop."""

from models.encoders import HubFile, SlideEncoder, register_encoder
from utils import constants

REPO = "prov-gigapath/prov-gigapath-flash"

register_encoder(
    SlideEncoder(
        name="gigapath_flash",
        prefix="gigapath_flash",
        backbone="models.gigapath_flash.backbone:GigaPathFlashBackbone",
        weights=lambda: constants.GIGAPATH_FLASH_SLIDE_ENCODER,
        source=f"https://huggingface.co/{REPO}",
        config=constants.CONFIGS_ROOT / "modaltune_gigapath_flash_config.json",
        threshold=25_000,
        demo_config=constants.CONFIGS_ROOT / "demo_modaltune_gigapath_flash_config.json",
        balanced_config=constants.CONFIGS_ROOT / "modaltune_gigapath_flash_balanced.json",
        demo_balanced_config=constants.CONFIGS_ROOT / "demo_modaltune_gigapath_flash_balanced.json",
        hub=(
            HubFile(REPO, "pytorch_model.bin", lambda: constants.GIGAPATH_FLASH_TILE_ENCODER),
            HubFile(REPO, "slide_encoder.pth", lambda: constants.GIGAPATH_FLASH_SLIDE_ENCODER),
        ),
        extraction="data_utils.extract_features --encoder gigapath_flash",
        tile_builder="models.prov_gigapath.tile_encoder:build_tile_encoder",
        tile_reader="models.gigapath_flash.tile_encoder:read_tile_state",
        tile_weights="GIGAPATH_FLASH_TILE_ENCODER",
        tile_config=constants.CONFIGS_ROOT / "gigapath_flash_tile_encoder.json",
        demo_tile_config=constants.CONFIGS_ROOT / "demo_gigapath_flash_tile_encoder.json",
        dilated=True,
    )
)

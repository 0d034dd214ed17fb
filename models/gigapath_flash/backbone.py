"""The GigaPath-Flash slide encoder as a backbone of the Modal Adapter."""

from __future__ import annotations

from models.prov_gigapath.backbone import GigaPathBackbone


class GigaPathFlashBackbone(GigaPathBackbone):
    """GigaPath's LongNet at half the width; parameters have the same names.

    Source: ``slide_encoder.pth`` of https://huggingface.co/prov-gigapath/prov-gigapath-flash (features of 384,
    width 384, 12 blocks, 16 heads of 24).
    """

    official_name = "the GigaPath-Flash slide encoder"
    source = (
        "https://huggingface.co/prov-gigapath/prov-gigapath-flash (slide_encoder.pth; gated; python -m "
        "utils.weights fetch gigapath_flash)"
    )
    constant = "GIGAPATH_FLASH_SLIDE_ENCODER"

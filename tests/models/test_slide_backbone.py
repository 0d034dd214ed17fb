"""The registry of slide encoders, and what every one of them promises to the adapter."""

import pytest
import torch

from models.encoders import slide_encoders
from models.slide_backbone import SlideBackbone, build_backbone


@pytest.fixture(params=list(slide_encoders()))
def backbone(request, tiny_configs):
    return build_backbone(request.param, tiny_configs[request.param]["slide_encoder"]).eval()


def test_an_unknown_encoder_lists_those_there_are():
    with pytest.raises(ValueError, match=r"unknown slide encoder 'gigapth'; there are .*gigapath"):
        build_backbone("gigapth", {})


def test_every_encoder_keeps_the_contract(backbone, make_case):
    case = make_case(11)
    assert isinstance(backbone, SlideBackbone) and len(backbone.blocks) == 6
    cls, patches, context = backbone.embed(case, 3)
    assert cls.shape == (3, 1, backbone.embed_dim) and patches.shape == (3, 11, backbone.embed_dim)
    tokens = torch.cat([cls, patches], dim=1)
    for block in backbone.blocks:
        tokens = backbone.run(block, tokens, context)
        assert tokens.shape == (3, 12, backbone.embed_dim)
    image = backbone.pool(tokens[:, :1], tokens[:, 1:], context)
    assert image.shape == (3, 1, backbone.embed_dim)
    torch.testing.assert_close(image[0], image[2])
    with pytest.raises(FileNotFoundError):
        backbone.load_pretrained("nowhere.pth")


def test_an_incomplete_encoder_cannot_be_built():
    class Half(SlideBackbone):
        def embed(self, case, num_tasks):
            raise NotImplementedError

    with pytest.raises(TypeError, match="abstract"):
        Half()

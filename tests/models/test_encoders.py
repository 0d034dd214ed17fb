"""The registry of slide encoders."""

import pytest

from models import encoders
from models.encoders import SlideEncoder, encoder_of, register_encoder, slide_encoder, slide_encoders
from models.slide_backbone import SlideBackbone
from utils import constants


def test_every_declaration_is_whole():
    assert {"gigapath", "gigapath_flash", "titan"} <= slide_encoders().keys()
    for name, encoder in slide_encoders().items():
        assert encoder.name == name and issubclass(encoder.load("backbone"), SlideBackbone)
        assert encoder.config.is_file() and encoder.demo_config.is_file() and encoder.threshold > 0
        assert encoder.tile_config.is_file() and encoder.demo_tile_config.is_file()
        assert callable(encoder.load("tile_builder")) and encoder.weights().suffix and encoder.source
        assert callable(encoder.load("tile_reader"))
        places = [file.place() for file in encoder.hub]
        assert encoder.weights() in places and getattr(constants, encoder.tile_weights) in places


@pytest.mark.parametrize(
    ("mil_name", "name"),
    [
        ("longnetvit_gene_adapter", "gigapath"),
        ("titan_adapter", "titan"),
        ("gigapath_flash_gene_adapter", "gigapath_flash"),
        ("gigapath_gene_adapter", "gigapath"),
        ("titanic_gene_adapter", "gigapath"),
        ("abmil", "gigapath"),
    ],
)
def test_the_first_word_names_the_encoder(mil_name, name):
    assert encoder_of(mil_name).name == name


def test_names_and_prefixes_differ(monkeypatch):
    known = slide_encoder("titan")
    monkeypatch.setattr(encoders, "_REGISTERED", dict(encoders._REGISTERED))
    with pytest.raises(ValueError, match="encoder other: the prefix 'titan' is that of titan"):
        register_encoder(SlideEncoder(**{**vars(known), "name": "other"}))
    with pytest.raises(ValueError, match="the name 'titan' is that of titan"):
        register_encoder(SlideEncoder(**{**vars(known), "prefix": "other"}))
    bare = register_encoder(SlideEncoder(**{**vars(known), "name": "o", "prefix": "o", "tile_builder": None}))
    with pytest.raises(ValueError, match="slide encoder o declares no tile_builder"):
        bare.load("tile_builder")


def test_the_command_answers_scripts(capsys, monkeypatch):
    assert encoders.main([]) == 0 and "titan" in capsys.readouterr().out.split()
    assert encoders.main(["titan", "prefix", "threshold"]) == 0
    assert capsys.readouterr().out == "titan\n15000\n"
    assert encoders.main(["tita"]) == 2
    assert "unknown slide encoder 'tita'; there are gigapath" in capsys.readouterr().err
    assert encoders.main(["gigapath_flash", "extraction"]) == 0
    assert capsys.readouterr().out == "data_utils.extract_features --encoder gigapath_flash\n"
    bare = SlideEncoder(**{**vars(slide_encoder("titan")), "balanced_config": None})
    monkeypatch.setitem(encoders._REGISTERED, "titan", bare)
    assert encoders.main(["titan", "balanced_config"]) == 2
    assert "slide encoder titan declares no balanced_config" in capsys.readouterr().err
    assert encoders.main(["titan", "colour"]) == 2 and "colour" in capsys.readouterr().err

"""The registry of slide encoders."""

import pytest

from models import encoders
from models.encoders import SlideEncoder, encoder_of, register_encoder, slide_encoder, slide_encoders
from models.slide_backbone import SlideBackbone


def test_every_declaration_is_whole():
    assert {"gigapath", "titan"} <= slide_encoders().keys()
    for name, encoder in slide_encoders().items():
        assert encoder.name == name and issubclass(encoder.load("backbone"), SlideBackbone)
        assert encoder.config.is_file() and encoder.demo_config.is_file() and encoder.threshold > 0
        assert encoder.tile_config.is_file() and encoder.demo_tile_config.is_file()
        assert callable(encoder.load("tile_builder")) and encoder.weights().suffix and encoder.source


@pytest.mark.parametrize(
    ("mil_name", "name"),
    [
        ("longnetvit_gene_adapter", "gigapath"),
        ("titan_adapter", "titan"),
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


def test_the_command_answers_scripts(capsys):
    assert encoders.main([]) == 0 and "titan" in capsys.readouterr().out.split()
    assert encoders.main(["titan", "prefix", "threshold"]) == 0
    assert capsys.readouterr().out == "titan\n15000\n"
    assert encoders.main(["tita"]) == 2
    assert "unknown slide encoder 'tita'; there are gigapath" in capsys.readouterr().err
    assert encoders.main(["titan", "colour"]) == 2 and "colour" in capsys.readouterr().err

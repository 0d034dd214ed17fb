"""The text tower of an open_clip model in a folder."""

import json
import logging

import open_clip
import pytest
import torch
from open_clip import CLIP
from safetensors.torch import save_file

from models.conch.open_clip_text import CONFIG, encode_text, load_open_clip
from utils.files import FileError

MODEL = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = CLIP(MODEL["embed_dim"], MODEL["vision_cfg"], MODEL["text_cfg"])
    state = {name: value.contiguous() for name, value in model.state_dict().items() if name != "attn_mask"}
    save_file(state, folder / "open_clip_model.safetensors")
    (folder / CONFIG).write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {}}))
    return folder


def by_hand(folder, sentence):
    """The tower of the file, one layer after the other."""
    from safetensors.torch import load_file

    state = load_file(folder / "open_clip_model.safetensors")
    ids = open_clip.SimpleTokenizer(context_length=20)([sentence])[0]
    x = state["token_embedding.weight"][ids] + state["positional_embedding"]
    p = "transformer.resblocks.0."

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, (16,), state[f"{name}.weight"], state[f"{name}.bias"])

    h = norm(x, p + "ln_1")
    q, k, v = (h @ state[p + "attn.in_proj_weight"].T + state[p + "attn.in_proj_bias"]).chunk(3, dim=-1)
    heads = []
    for s in (slice(0, 8), slice(8, 16)):
        scores = q[:, s] @ k[:, s].T / 8**0.5
        scores = scores.masked_fill(torch.ones(20, 20).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(dim=-1) @ v[:, s])
    x = x + torch.cat(heads, dim=-1) @ state[p + "attn.out_proj.weight"].T + state[p + "attn.out_proj.bias"]
    h = norm(x, p + "ln_2") @ state[p + "mlp.c_fc.weight"].T + state[p + "mlp.c_fc.bias"]
    x = x + torch.nn.functional.gelu(h) @ state[p + "mlp.c_proj.weight"].T + state[p + "mlp.c_proj.bias"]
    out = norm(x, "ln_final")[ids.argmax()] @ state["text_projection"]
    return out / out.norm()


def test_embeddings_are_those_of_the_tower(folder, caplog):
    tokenizer, model = load_open_clip(folder)
    sentences = ["Grade: high", "Cancer location: breast; Cancer diagnosis: lobular carcinoma;"]
    with caplog.at_level(logging.WARNING):
        found = encode_text(model, tokenizer(sentences))
    assert not caplog.records
    expected = torch.stack([by_hand(folder, sentence) for sentence in sentences])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_sentences_that_are_cut_are_counted(folder, caplog):
    tokenizer, _ = load_open_clip(folder)
    exact = " ".join(["high"] * 18)
    with caplog.at_level(logging.WARNING):
        tokenizer([exact])
        assert not caplog.records
        tokenizer(["high", exact + " high"])
    assert "1 sentences are too long and lose their end, such as 'high high" in caplog.text


def test_what_is_no_model_is_said(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load_open_clip(tmp_path / "nowhere")
    with pytest.raises(FileError, match="holds no open_clip_config"):
        load_open_clip(tmp_path)
    (tmp_path / CONFIG).write_text((folder / CONFIG).read_text())
    with pytest.raises(FileError, match="holds no weights"):
        load_open_clip(tmp_path)
    save_file({"token_embedding.weight": torch.zeros(2, 2)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(FileError, match="holds no model that open_clip can load"):
        load_open_clip(tmp_path)

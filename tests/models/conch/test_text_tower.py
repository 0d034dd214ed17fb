"""CONCH's text tower and its tokeniser."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from models.conch.text_tower import (
    TextTowerConfig,
    build_text_tower,
    encode_tokens,
    load_text_tower,
    read_text_config,
)
from models.conch.tokenizer import ConchTokenizer
from utils import constants

SMALL = TextTowerConfig(context_length=9, vocab_size=40, width=16, heads=2, layers=2, output_dim=8)


def small_tower(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    tower = build_text_tower(SMALL)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return tower.eval()


# ---------------------------------------------------------------------------- sizes and names
def test_published_size_and_names() -> None:
    config = read_text_config(constants.CONFIGS_ROOT / "conch_text.json")
    with torch.device("meta"):
        tower = build_text_tower(config)
    block = {
        "ln_1.weight": (768,),
        "ln_1.bias": (768,),
        "attn.in_proj_weight": (2304, 768),
        "attn.in_proj_bias": (2304,),
        "attn.out_proj.weight": (768, 768),
        "attn.out_proj.bias": (768,),
        "ln_2.weight": (768,),
        "ln_2.bias": (768,),
        "mlp.c_fc.weight": (3072, 768),
        "mlp.c_fc.bias": (3072,),
        "mlp.c_proj.weight": (768, 3072),
        "mlp.c_proj.bias": (768,),
    }
    expected = {
        "text_projection": (768, 512),
        "cls_emb": (768,),
        "positional_embedding": (128, 768),
        "token_embedding.weight": (32007, 768),
        "ln_final.weight": (768,),
        "ln_final.bias": (768,),
    }
    expected |= {
        f"transformer.resblocks.{layer}.{name}": shape for layer in range(12) for name, shape in block.items()
    }
    assert {name: tuple(value.shape) for name, value in tower.state_dict().items()} == expected


def test_demo_config_shrinks_only_sizes() -> None:
    demo = read_text_config(constants.CONFIGS_ROOT / "demo_conch_text.json")
    assert (demo.context_length, demo.output_dim) == (127, 512)


def test_wrong_config(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"widht": 3}')
    with pytest.raises(ValueError, match="width"):
        read_text_config(path)


# ---------------------------------------------------------------------------- numbers
def _oracle(tower: torch.nn.Module, row: Tensor) -> Tensor:
    """One sentence through the transformer, written out; ``row`` holds the tokens without the place of the CLS."""
    state = tower.state_dict()
    x = (
        torch.cat([state["token_embedding.weight"][row], state["cls_emb"][None]])
        + state["positional_embedding"]
    )
    length, heads, width = len(x), SMALL.heads, SMALL.width
    # CONCH was trained with the padding mask moved by one: position 0 is always seen, position i + 1 if token i is
    # no pad, and so the CLS itself only where the sentence fills all places.
    seen = torch.cat([torch.tensor([True]), row != 0])
    for layer in range(SMALL.layers):
        weight = {
            k.split(f"resblocks.{layer}.")[1]: v for k, v in state.items() if f"resblocks.{layer}." in k
        }
        y = torch.nn.functional.layer_norm(x, (width,), weight["ln_1.weight"], weight["ln_1.bias"])
        q, k, v = (y @ weight["attn.in_proj_weight"].T + weight["attn.in_proj_bias"]).chunk(3, dim=-1)
        mixed = torch.zeros_like(y)
        for head in range(heads):
            part = slice(head * width // heads, (head + 1) * width // heads)
            for i in range(length):
                keys = [j for j in range(i + 1) if seen[j]]
                scores = torch.stack([q[i, part] @ k[j, part] for j in keys]) / math.sqrt(width // heads)
                mixed[i, part] = torch.softmax(scores, 0) @ v[keys][:, part]
        x = x + mixed @ weight["attn.out_proj.weight"].T + weight["attn.out_proj.bias"]
        y = torch.nn.functional.layer_norm(x, (width,), weight["ln_2.weight"], weight["ln_2.bias"])
        y = torch.nn.functional.gelu(y @ weight["mlp.c_fc.weight"].T + weight["mlp.c_fc.bias"])
        x = x + y @ weight["mlp.c_proj.weight"].T + weight["mlp.c_proj.bias"]
    pooled = torch.nn.functional.layer_norm(x[-1], (width,), state["ln_final.weight"], state["ln_final.bias"])
    embedding = pooled @ state["text_projection"]
    return embedding / embedding.norm()


def test_tower_equals_written_out_transformer() -> None:
    tower = small_tower()
    tokens = torch.randint(1, SMALL.vocab_size, (3, SMALL.context_length + 1))
    tokens[0, 4:] = 0
    tokens[1, 7:] = 0
    tokens[:, -1] = 0
    embeddings = encode_tokens(tower, tokens)
    expected = torch.stack([_oracle(tower, row[:-1]) for row in tokens])
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=1e-4)
    # The repaired mask of open_clip gives other numbers, so the test above does see which mask is used.
    tower.correct_cls_mask = True
    assert (encode_tokens(tower, tokens) - expected).abs().max() > 1e-3


# ---------------------------------------------------------------------------- checkpoints
@pytest.mark.parametrize("prefix", ["text.", "module.text."])
@pytest.mark.parametrize("nested", [True, False])
def test_checkpoint_layouts(tmp_path: Path, prefix: str, nested: bool) -> None:
    tower = small_tower()
    state = {f"{prefix}{name}": value for name, value in tower.state_dict().items()}
    state |= {"visual.x": torch.zeros(1), "text_decoder.y": torch.zeros(1), "logit_scale": torch.zeros(())}
    torch.save({"state_dict": state} if nested else state, tmp_path / "conch.pt")
    loaded = load_text_tower(SMALL, tmp_path / "conch.pt")
    tokens = torch.randint(0, SMALL.vocab_size, (2, SMALL.context_length + 1))
    # Frozen weights take PyTorch's fused attention, which rounds differently.
    torch.testing.assert_close(
        encode_tokens(loaded, tokens), encode_tokens(tower, tokens), atol=1e-6, rtol=1e-5
    )
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_bad_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "conch.pt"
    with pytest.raises(FileNotFoundError, match=r"huggingface.co/MahmoodLab/CONCH.*CONCH_CHECKPOINT"):
        load_text_tower(SMALL, path)
    torch.save({"visual.x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"none starts with 'text\.', they are such as .'visual\.x"):
        load_text_tower(SMALL, path)
    state = {f"text.{name}": value for name, value in small_tower().state_dict().items()}
    del state["text.cls_emb"]
    torch.save(state, path)
    with pytest.raises(ValueError, match="cls_emb"):
        load_text_tower(SMALL, path)
    torch.save(state | {"text.cls_emb": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"cls_emb is \(3,\), should be \(16,\)"):
        load_text_tower(SMALL, path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="no readable checkpoint"):
        load_text_tower(SMALL, path)


# ---------------------------------------------------------------------------- tokeniser
SPECIAL = ["<pad>", "<start_of_text>", "<end_of_text>"]


def write_tokenizer(path: Path, special: list[str] = SPECIAL) -> Path:
    letters = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    marks = [(token, special.index(token)) for token in SPECIAL[1:]]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start_of_text> $A <end_of_text>", special_tokens=marks
    )
    tokenizer.save(str(path))
    return path


def test_tokens_are_those_of_transformers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    sentences = ["Lung", "", "A sentence that is longer than twenty tokens"]
    tokens = ConchTokenizer(path, 20, 300)(sentences)
    reference = PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )(sentences, max_length=20, truncation=True, padding="max_length", return_tensors="pt")
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens[:, :-1], reference["input_ids"])
    assert (tokens[:, -1] == 0).all()
    assert (tokens[2, 0], tokens[2, 19]) == (1, 2)  # the end mark survives truncation
    assert tokens[0].tolist().count(0) == 21 - 6
    assert "1 sentences are too long" in caplog.text


def test_tokenizer_is_uncased(tmp_path: Path) -> None:
    tokenize = ConchTokenizer(write_tokenizer(tmp_path / "tokenizer.json"), 20, 300)
    assert torch.equal(tokenize(["TUMOR Stage"]), tokenize(["tumor stage"]))


def test_bad_tokenizers(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="MODALTUNE_CONCH_TOKENIZER"):
        ConchTokenizer(tmp_path / "absent.json", 20, 300)
    with pytest.raises(ValueError, match="has 259 tokens, the text tower 100"):
        ConchTokenizer(write_tokenizer(tmp_path / "tokenizer.json"), 20, 100)
    with pytest.raises(ValueError, match="<pad> must have id 0, it is 2"):
        ConchTokenizer(write_tokenizer(tmp_path / "moved.json", SPECIAL[::-1]), 20, 300)
    (tmp_path / "broken.json").write_text('{"version": 3}')
    with pytest.raises(ValueError, match="is no fast-tokeniser JSON"):
        ConchTokenizer(tmp_path / "broken.json", 20, 300)

"""Small checkpoints in the official file formats, shapes reduced by the demo configs.

Nothing is trained. Weights are random, but scaled so that information flows: official initialisations
(layer scale 1e-5, embeddings of 0.02) make encoders whose output hardly depends on their input. The last
normalisation of an encoder is calibrated, so that outputs vary around zero instead of around a constant.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from open_clip.transformer import TextTransformer
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from data_utils.demo.patients import stream
from data_utils.demo.weights import calibrate, demo_config, fill, fill_trunk, painted_tiles, state_of
from data_utils.slides.tile_reading import TileRecipe
from data_utils.tables.cohorts import load_cohort
from data_utils.tables.label_sentences import build_sentences
from data_utils.tables.tasks import published
from models.encoders import DEFAULT, SlideEncoder, slide_encoder, slide_encoders
from models.prov_gigapath.backbone import GigaPathBackbone
from models.prov_gigapath.longnet import LongNetViT
from models.prov_gigapath.tile_encoder import build_tile_encoder
from models.titan.conch_v1_5 import build_conch_v1_5
from models.titan.vision_encoder import TitanVisionEncoder
from utils import constants
from utils.files import atomic_path, read_json

SPECIAL_TOKENS = ("<pad>", "<start_of_text>", "<end_of_text>")  # <pad> must be id 0
RESIDUAL_GAIN = 0.3
# Share of the constant part of sentence embeddings that is taken out. Real towers keep some of it, too.
CENTRING = 0.9


# ---------------------------------------------------------------------------- patch encoders
def tile_encoder_state(seed: int, name: str = "gigapath") -> dict[str, Tensor]:
    """State dict of a demo tile encoder of GigaPath's family, as in its ``pytorch_model.bin``."""
    config = _demo_config_of(name, "demo_tile_config")
    encoder = build_tile_encoder(config)
    rng = stream(seed, _stream_name("tile encoder", name))
    fill(encoder, rng)
    fill_trunk(encoder, rng)
    encoder.eval().double()
    calibration = stream(seed, _stream_name("calibration", name))
    painted = painted_tiles(calibration, config["input_size"], config["target_mpp"])
    tiles = torch.from_numpy((painted / 255 - config["mean"]) / config["std"]).permute(0, 3, 1, 2)
    calibrate(encoder.patch_embed.proj, lambda: encoder.patch_embed(tiles).flatten(0, 1))
    calibrate(encoder.norm, lambda: encoder(tiles))
    return state_of(encoder)


def conch_v1_5_state(seed: int) -> dict[str, Tensor]:
    """State dict of the demo CONCH v1.5, as in TITAN's ``pytorch_model_vision.bin``."""
    config = demo_config("conch_v1_5")
    encoder, rng = build_conch_v1_5(config), stream(seed, "conch v1.5")
    fill(encoder, rng)
    fill_trunk(encoder.trunk, rng)
    encoder.eval().double()
    recipe = TileRecipe.from_config("conch_v1_5", config)
    painted = painted_tiles(stream(seed, "conch v1.5 calibration"), recipe.tile_size, recipe.target_mpp)
    pixels = np.stack([recipe.prepare(Image.fromarray(tile)) for tile in painted])
    tiles = recipe.normalise(torch.from_numpy(pixels)).double()
    calibrate(encoder.trunk.patch_embed.proj, lambda: encoder.trunk.patch_embed(tiles).flatten(0, 1))
    calibrate(encoder.ln_contrast, lambda: encoder(tiles))
    return state_of(encoder)


# ---------------------------------------------------------------------------- slide encoder
def slide_encoder_state(seed: int, name: str = "gigapath") -> dict[str, dict[str, Tensor]]:
    """Contents of a demo ``slide_encoder.pth`` of GigaPath's family: the state dict under ``model``."""
    encoder = LongNetViT(**_demo_config_of(name, "demo_config")["slide_encoder"])
    fill(encoder, stream(seed, _stream_name("slide encoder", name)))
    with torch.no_grad():
        # Features must outweigh the position codes that are added to them, and CLS, which only collects
        # what the blocks add, must not drown the other modalities.
        encoder.patch_embed.proj.weight.mul_(1.5)
        for layer in encoder.encoder.layers:
            layer.self_attn.out_proj.weight.mul_(RESIDUAL_GAIN)
            layer.ffn.fc2.weight.mul_(RESIDUAL_GAIN)
    return {"model": state_of(encoder)}


def _demo_config_of(name: str, kind: str) -> dict[str, Any]:
    """A config that the slide encoder ``name`` declares."""
    path = getattr(slide_encoder(name), kind)
    if path is None:
        raise ValueError(f"slide encoder {name} declares no {kind}")
    return read_json(path)


def _stream_name(purpose: str, name: str) -> str:
    """GigaPath came first and keeps the random numbers it had."""
    return purpose if name == DEFAULT else f"{purpose} of {name}"


def titan_state(seed: int) -> dict[str, Tensor]:
    """Contents of the demo ``model.safetensors``; TITAN's own also holds its text tower."""
    encoder = TitanVisionEncoder(**demo_config("modaltune_titan_config")["slide_encoder"])
    fill(encoder, stream(seed, "titan"))
    with torch.no_grad():
        encoder.cls_token.zero_()
        encoder.proj.div_(encoder.embed_dim**0.5)
    return {f"vision_encoder.{name}": value for name, value in state_of(encoder).items()}


# ---------------------------------------------------------------------------- text tower
def label_sentences(seed: int) -> dict[str, list[str]]:
    """Sentences of every shipped cohort, those of a case one after the other in the order of the published tasks."""
    rng = stream(seed, "sentences")
    sentences: dict[str, list[str]] = {}
    for file in sorted(constants.COHORTS_ROOT.glob("*.json")):
        cohort = load_cohort(file.stem)
        lines: list[str] = []
        for diagnosis in sorted({name for group in cohort.classes for name in group}):
            for _ in range(12):
                edges = tuple(np.sort(rng.integers(0, 300, size=5)).tolist())
                row = {
                    "primary_diagnosis": diagnosis,
                    "ajcc_pathologic_stage": f"Stage {rng.choice(('I', 'II', 'III', 'IV', 'X'))}",
                    "durations": float(rng.uniform(edges[0], edges[4])),
                    "vital_status": int(rng.integers(2)),
                    "ajcc_pathologic_t": f"T{rng.choice(tuple('01234X'))}",
                    "ajcc_pathologic_n": f"N{rng.choice(tuple('0123X'))}",
                    "ajcc_pathologic_m": f"M{rng.choice(tuple('01X'))}",
                }
                lines += build_sentences(row, cohort.site, edges).values()
        sentences[cohort.name] = lines
    return sentences


def build_tokenizer(sentences: dict[str, list[str]], vocab_size: int) -> Tokenizer:
    """A lower-casing byte-level BPE tokeniser with CONCH's special tokens, trained on the sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    numbers = [f"between {months} and {months} months" for months in range(300)]
    tokenizer.train_from_iterator([*itertools.chain(*sentences.values()), *numbers], trainer)
    start, end = SPECIAL_TOKENS[1:]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (start, end)],
    )
    return tokenizer


def text_tower_state(seed: int, tokenizer: Tokenizer, sentences: dict[str, list[str]]) -> dict[str, Tensor]:
    """State dict of the demo text tower under the names of ``conch.pt``.

    The tower works like a bag of words in which telling words count most: dimension 0 of a token embedding
    says how telling the token is, and keys of the attention read that dimension.
    """
    config = demo_config("conch_text")
    tower = TextTransformer(**config, embed_cls=True, output_tokens=True, pad_id=0, correct_cls_mask=False)
    rng, width, length = stream(seed, "text tower"), config["width"], config["context_length"]
    ids = {name: [tokenizer.encode(text).ids[:length] for text in texts] for name, texts in sentences.items()}
    with torch.no_grad():
        fill(tower, rng)
        tower.token_embedding.weight.copy_(
            torch.from_numpy(rng.standard_normal((config["vocab_size"], width)))
        )
        tower.token_embedding.weight[:, 0] = torch.from_numpy(_telling(ids, config["vocab_size"]))
        tower.positional_embedding.mul_(0.02)
        tower.cls_emb.mul_(0.1)
        for block in tower.transformer.resblocks:
            _attend_to_dimension_0(block.attn)
            block.mlp.c_proj.weight[0] = 0
            block.mlp.c_proj.weight *= 0.3
    tower.eval().double()
    rows = list(itertools.chain(*ids.values()))[::5]  # a step that is coprime to the four rows of a case
    tokens = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    calibrate(tower.ln_final, lambda: _before_projection(tower, tokens), centring=CENTRING)
    return {f"text.{name}": value for name, value in state_of(tower).items()}


def _telling(ids: dict[str, list[list[int]]], vocab_size: int) -> np.ndarray:
    """How much a token tells cases apart, -2 to 2, ``[vocab_size]``.

    Rare tokens do; words that all sentences of a cohort share do not, such as its site.
    """
    shares = []
    for rows in ids.values():
        general = rows[:: len(published().rows)]  # only these have all parts
        counts = np.bincount(np.concatenate([np.unique(row) for row in general]), minlength=vocab_size)
        shares.append(counts / len(general))
    telling = 4 * np.clip(-np.log(np.mean(shares, axis=0) + 1e-6) / 4, 0, 1) - 2
    telling[np.max(shares, axis=0) > 0.95] = -2
    telling[: len(SPECIAL_TOKENS)] = -2
    return telling


def _attend_to_dimension_0(attention: nn.MultiheadAttention) -> None:
    """All queries are alike and keys read dimension 0, which the attention leaves as it is."""
    width, head = attention.embed_dim, attention.head_dim
    query, key = attention.in_proj_weight[:width], attention.in_proj_weight[width : 2 * width]
    query.zero_()
    key.zero_()
    key[::head, 0] = 1.0
    attention.in_proj_bias.zero_()
    attention.in_proj_bias[:width:head] = 0.7 * head**0.5
    attention.out_proj.weight[0] = 0


def _before_projection(tower: TextTransformer, tokens: Tensor) -> Tensor:
    projection = tower.text_projection
    tower.text_projection = None
    try:
        return tower(tokens)[0]
    finally:
        tower.text_projection = projection


# ---------------------------------------------------------------------------- files
def write_checkpoints(root: Path, seed: int) -> None:
    """Writes those of the files that are missing below the weights folder ``root``.

    Slide encoders of GigaPath's family get theirs by being registered with demo configs.

    Raises:
        ValueError: the path of a weight file leads elsewhere, so that the demo would read another file.
    """
    tower, vocabulary = root / "conch" / "conch.pt", root / "conch" / "conch_byte_level_bpe_uncased.json"
    states: dict[Path, Callable[[int], dict[str, Any]]] = {
        root / "titan" / "pytorch_model_vision.bin": conch_v1_5_state,
        root / "titan" / "model.safetensors": titan_state,
    }
    for name, encoder in slide_encoders().items():
        if encoder.demo_config and encoder.demo_tile_config and encoder.tile_weights and _is_longnet(encoder):
            tiles = getattr(constants, encoder.tile_weights)
            states[root / _below_weights(tiles, encoder.name)] = partial(tile_encoder_state, name=name)
            states[root / _below_weights(encoder.weights(), encoder.name)] = partial(
                slide_encoder_state, name=name
            )
    for path, state in states.items():
        if not path.exists():
            _save(state(seed), path)
    if not (tower.exists() and vocabulary.exists()):  # they belong together
        sentences = label_sentences(seed)
        tokenizer = build_tokenizer(sentences, demo_config("conch_text")["vocab_size"])
        with atomic_path(vocabulary) as temporary:
            tokenizer.save(str(temporary))
        _save(text_tower_state(seed, tokenizer, sentences), tower)


def _is_longnet(encoder: SlideEncoder) -> bool:
    return issubclass(encoder.load("backbone"), GigaPathBackbone)


def _below_weights(path: Path, name: str) -> Path:
    if not path.is_relative_to(constants.WEIGHTS_ROOT):
        raise ValueError(
            f"weights of {name} are set to {path}, outside {constants.WEIGHTS_ROOT}; the demo would read that file "
            "instead of its own: unset the MODALTUNE_*_ENCODER variable that says so"
        )
    return path.relative_to(constants.WEIGHTS_ROOT)


def _save(state: dict[str, Any], path: Path) -> None:
    if path.suffix == ".safetensors":
        content = safetensors.torch.save(state, metadata={"format": "pt"})
    else:
        buffer = io.BytesIO()  # torch writes the name of a file into it, and the temporary name varies
        torch.save(state, buffer)
        content = buffer.getvalue()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)

"""Small checkpoints in the official file formats, shapes reduced by the demo configs.

Nothing is trained. Weights are random, but scaled so that information flows: official initialisations
(layer scale 1e-5, embeddings of 0.02) make encoders whose output hardly depends on their input. The last
normalisation of an encoder is calibrated, so that outputs vary around zero instead of around a constant.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.random import Generator
from open_clip.transformer import TextTransformer
from scipy.ndimage import gaussian_filter
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from data_utils.cohorts import load_cohort
from data_utils.demo.histology import paint_tissue
from data_utils.demo.patients import stream
from data_utils.label_text import build_sentences
from models.prov_gigapath.longnet import LongNetViT
from utils import constants
from utils.files import atomic_path, read_json

SPECIAL_TOKENS = ("<pad>", "<start_of_text>", "<end_of_text>")  # <pad> must be id 0
CALIBRATION_TILES = 48
# Share of the constant part of sentence embeddings that is taken out. Real towers keep some of it, too.
CENTRING = 0.9
# A dimension that hardly varies carries rounding errors: amplify it no further than this.
MAX_GAIN = 4.0


def demo_config(name: str) -> dict[str, Any]:
    """The config ``demo_{name}.json`` of ``model_configs/``."""
    return read_json(constants.CONFIGS_ROOT / f"demo_{name}.json")


# ---------------------------------------------------------------------------- tile encoder
def tile_encoder_state(seed: int) -> dict[str, Tensor]:
    """State dict of the demo tile encoder, as in GigaPath's ``pytorch_model.bin``."""
    config = demo_config("gigapath_tile_encoder")
    encoder = timm.create_model(config["model_name"], pretrained=False, **config["model_args"])
    rng = stream(seed, "tile encoder")
    _fill(encoder, rng)
    with torch.no_grad():
        filters = encoder.patch_embed.proj.weight
        filters.copy_(_texture_filters(tuple(filters.shape), rng))
        encoder.cls_token.zero_()
        encoder.pos_embed.mul_(0.1)
    encoder.eval().double()
    tiles = _calibration_tiles(seed, config)
    _calibrate(encoder.patch_embed.proj, lambda: encoder.patch_embed(tiles).flatten(0, 1))
    _calibrate(encoder.norm, lambda: encoder(tiles))
    return _state(encoder)


def _texture_filters(shape: tuple[int, ...], rng: Generator) -> Tensor:
    """Random filters ``[n, 3, h, w]`` of several coarsenesses: some see colour, some see texture."""
    filters = np.empty(shape)
    for k in range(shape[0]):
        smoothness = (0.7, 1.5, 3.0, 6.0)[k % 4]
        grain = gaussian_filter(rng.standard_normal(shape[2:]), smoothness, mode="reflect")
        colour = rng.standard_normal(3)[:, None, None]
        filters[k] = colour * (grain / grain.std() + rng.normal())
    return torch.from_numpy(filters / np.sqrt(np.prod(shape[1:])))


def _calibration_tiles(seed: int, config: dict[str, Any]) -> Tensor:
    """Normalised tiles ``[n, 3, H, W]`` that span what slides of the demo show."""
    rng, side = stream(seed, "calibration"), config["input_size"]
    tiles = [
        paint_tissue(
            mask=np.ones((side // 2, side // 2), dtype=np.float32),
            look=tuple(rng.normal(0, 1, size=2)),
            grade=float(rng.normal()),
            tissue=tuple(rng.uniform(-1, 1, size=2)),
            mpp=config["target_mpp"],
            rng=rng,
        )
        for _ in range(CALIBRATION_TILES)
    ]
    pictures = (np.stack(tiles) / 255 - config["mean"]) / config["std"]
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


# ---------------------------------------------------------------------------- slide encoder
def slide_encoder_state(seed: int) -> dict[str, dict[str, Tensor]]:
    """Contents of the demo ``slide_encoder.pth``: the state dict under ``model``."""
    encoder = LongNetViT(**demo_config("modaltune_gigapath_config")["slide_encoder"])
    _fill(encoder, stream(seed, "slide encoder"))
    with torch.no_grad():
        # Features must outweigh the position codes that are added to them.
        encoder.patch_embed.proj.weight.mul_(1.5)
    return {"model": _state(encoder)}


# ---------------------------------------------------------------------------- text tower
def label_sentences(seed: int) -> list[str]:
    """Sentences that use every word the label texts of the shipped cohorts have."""
    rng, sentences = stream(seed, "sentences"), []
    for file in sorted(constants.COHORTS_ROOT.glob("*.json")):
        cohort = load_cohort(file.stem)
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
                sentences += build_sentences(row, cohort.site, edges).values()
    return sentences


def build_tokenizer(sentences: list[str], vocab_size: int) -> Tokenizer:
    """A lower-casing byte-level BPE tokeniser with CONCH's special tokens."""
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
    tokenizer.train_from_iterator([*sentences, *numbers], trainer)
    start, end = SPECIAL_TOKENS[1:]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (start, end)],
    )
    return tokenizer


def text_tower_state(seed: int, tokenizer: Tokenizer, sentences: list[str]) -> dict[str, Tensor]:
    """State dict of the demo text tower under the names of ``conch.pt``.

    The tower works like a bag of words in which rare words count most: dimension 0 of a token embedding
    says how rare the token is, and keys of the attention read that dimension.
    """
    config = demo_config("conch_text")
    tower = TextTransformer(**config, embed_cls=True, output_tokens=True, pad_id=0, correct_cls_mask=False)
    rng, width, length = stream(seed, "text tower"), config["width"], config["context_length"]
    ids = [tokenizer.encode(sentence).ids[:length] for sentence in sorted(set(sentences))]
    with torch.no_grad():
        _fill(tower, rng)
        tower.token_embedding.weight.copy_(
            torch.from_numpy(rng.standard_normal((config["vocab_size"], width)))
        )
        tower.token_embedding.weight[:, 0] = torch.from_numpy(_rarity(ids, config["vocab_size"]))
        tower.positional_embedding.mul_(0.02)
        tower.cls_emb.mul_(0.1)
        for block in tower.transformer.resblocks:
            _attend_to_dimension_0(block.attn)
            block.mlp.c_proj.weight[0] = 0
            block.mlp.c_proj.weight *= 0.3
    tower.eval().double()
    tokens = torch.tensor([row + [0] * (length - len(row)) for row in ids[:: max(1, len(ids) // 200)]])
    _calibrate(tower.ln_final, lambda: _before_projection(tower, tokens), centring=CENTRING)
    return {f"text.{name}": value for name, value in _state(tower).items()}


def _rarity(ids: list[list[int]], vocab_size: int) -> np.ndarray:
    """How few sentences a token occurs in, -2 (all of them, and special tokens) to 2, ``[vocab_size]``."""
    counts = np.zeros(vocab_size)
    for row in ids:
        counts[np.unique(row)] += 1
    rarity = -np.log((counts + 1) / (len(ids) + 1))
    rarity = 4 * np.clip(rarity / 2.0, 0, 1) - 2
    rarity[: len(SPECIAL_TOKENS)] = -2
    return rarity


def _attend_to_dimension_0(attention: nn.MultiheadAttention) -> None:
    """All queries are alike and keys read dimension 0, which the attention leaves as it is."""
    width, head = attention.embed_dim, attention.head_dim
    query, key = attention.in_proj_weight[:width], attention.in_proj_weight[width : 2 * width]
    query.zero_()
    key.zero_()
    key[::head, 0] = 1.0
    attention.in_proj_bias.zero_()
    attention.in_proj_bias[:width:head] = 0.5 * head**0.5
    attention.out_proj.weight[0] = 0


def _before_projection(tower: TextTransformer, tokens: Tensor) -> Tensor:
    projection = tower.text_projection
    tower.text_projection = None
    try:
        return tower(tokens)[0]
    finally:
        tower.text_projection = projection


# ---------------------------------------------------------------------------- weights
def _fill(module: nn.Module, rng: Generator) -> None:
    """Matrices random and keeping the variance of their input, gains 1, biases 0, layer scales 1."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1 and not name.endswith("cls_emb"):
                parameter.fill_(1.0)
            else:
                fan_in = parameter.shape[1:].numel() if name.endswith("weight") else 1
                if name.endswith("text_projection"):
                    fan_in = parameter.shape[0]
                values = rng.standard_normal(tuple(parameter.shape)) / np.sqrt(fan_in)
                parameter.copy_(torch.from_numpy(values))


def _calibrate(layer: nn.Module, output: Callable[[], Tensor], centring: float = 1.0) -> None:
    """Sets weight and bias of ``layer`` so that ``output()`` ``[n, D]`` has mean 0 and variance 1.

    Weights are rounded, because the last bits of sums differ between machines.
    """
    with torch.no_grad():
        values = output()
        scale = (1 / values.std(dim=0)).clamp(max=MAX_GAIN)
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.sub_(centring * values.mean(dim=0)).mul_(scale)
        for parameter in (layer.weight, layer.bias):
            parameter.copy_(torch.round(parameter, decimals=4))


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().float().contiguous() for name, value in module.state_dict().items()}


def write_checkpoints(root: Path, seed: int) -> None:
    """Writes those of the four files that are missing below the weights folder ``root``."""
    tile, slide = root / "prov-gigapath" / "pytorch_model.bin", root / "prov-gigapath" / "slide_encoder.pth"
    tower, vocabulary = root / "conch" / "conch.pt", root / "conch" / "conch_byte_level_bpe_uncased.json"
    for path, state in ((tile, tile_encoder_state), (slide, slide_encoder_state)):
        if not path.exists():
            _save(state(seed), path)
    if not (tower.exists() and vocabulary.exists()):  # they belong together
        sentences = label_sentences(seed)
        tokenizer = build_tokenizer(sentences, demo_config("conch_text")["vocab_size"])
        with atomic_path(vocabulary) as temporary:
            tokenizer.save(str(temporary))
        _save(text_tower_state(seed, tokenizer, sentences), tower)


def _save(state: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()  # torch writes the name of a file into it, and the temporary name varies
    torch.save(state, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())

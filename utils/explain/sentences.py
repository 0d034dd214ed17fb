"""Sentences as the text model of a run has them, for targets that are a similarity to any sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_utils.tables.sentence_table import read_sentence_vectors
from models.conch.text_tower import encode_tokens, load_text_tower, read_text_config
from models.conch.tokenizer import ConchTokenizer
from utils import constants


@dataclass(frozen=True)
class TextModel:
    """Embeds sentences: by CONCH, whose files lie where utils/constants.py says, or as a file has them.

    Attributes:
        vectors: ``{sentence: vector}`` of any text model, written with torch.save.
        config: sizes of CONCH's text tower; if not given, the official ones.
    """

    vectors: Path | None = None
    config: Path | None = None

    def embed(self, sentences: Sequence[str], device: torch.device) -> Tensor:
        """Unit vectors ``[n, width]`` on the CPU.

        Raises:
            FileNotFoundError, ValueError: a file is missing, damaged, or lacks a sentence.
        """
        if self.vectors is not None:
            return read_sentence_vectors(self.vectors, sentences)
        config = read_text_config(self.config or constants.CONFIGS_ROOT / "conch_text.json")
        tokenizer = ConchTokenizer(constants.CONCH_TOKENIZER, config.context_length, config.vocab_size)
        tower = load_text_tower(config, constants.CONCH_CHECKPOINT).to(device)
        return encode_tokens(tower, tokenizer(sentences).to(device)).cpu()

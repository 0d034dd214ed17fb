"""Tokeniser of CONCH's text tower: a fast-tokeniser JSON, cut and padded to the length of the tower."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from models.conch.text_tower import PAD_ID
from utils.files import FileError

logger = logging.getLogger(__name__)

PAD_TOKEN = "<pad>"


class ConchTokenizer:
    """Sentences to token ids.

    Start and end of the text are marked as the JSON file says (CONCH: ``<start_of_text>``,
    ``<end_of_text>``). After ``context_length`` tokens comes one more pad, which keeps the place of the
    tower's CLS.

    Args:
        path: ``conch_byte_level_bpe_uncased.json``.
        context_length: tokens of a sentence, special ones included (CONCH: 127).
        vocab_size: rows of the tower's embedding table; no id may lie beyond it.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: no tokeniser file, the vocabulary is larger than the tower's, or the pad token is not
            id 0, which the tower takes for granted.
    """

    def __init__(self, path: str | Path, context_length: int, vocab_size: int) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"CONCH's tokeniser not found at {path}. It is the file conch_byte_level_bpe_uncased.json of "
                "https://github.com/mahmoodlab/CONCH; set CONCH_TOKENIZER in utils/constants.py or the "
                "environment variable MODALTUNE_CONCH_TOKENIZER."
            )
        try:
            self._tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exceptions
            raise FileError(path, f"is no fast-tokeniser JSON: {error}", "copy it again") from error
        size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        if size > vocab_size:
            fault = f"has {size} tokens, the text tower {vocab_size}"
            raise FileError(path, fault, "they do not belong together: pass another file")
        if self._tokenizer.token_to_id(PAD_TOKEN) != PAD_ID:
            fault = f": {PAD_TOKEN} must have id {PAD_ID}, it is {self._tokenizer.token_to_id(PAD_TOKEN)}"
            raise FileError(path, fault, "pass CONCH's own tokeniser")
        self._tokenizer.enable_truncation(max_length=context_length)
        self._tokenizer.enable_padding(length=context_length, pad_id=PAD_ID, pad_token=PAD_TOKEN)

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Token ids ``[n, context_length + 1]``, int64; sentences that are cut are counted in the log."""
        encodings = self._tokenizer.encode_batch(list(sentences))
        cut = [sentence for sentence, item in zip(sentences, encodings, strict=True) if item.overflowing]
        if cut:
            logger.warning("%d sentences are too long and lose their end, such as %r", len(cut), cut[0])
        ids = torch.tensor([item.ids for item in encodings], dtype=torch.int64)
        return torch.nn.functional.pad(ids, (0, 1), value=PAD_ID)

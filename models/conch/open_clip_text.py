"""The text tower of any open_clip model in a folder, in place of CONCH's.

The folder is as on the Hugging Face hub: ``open_clip_config.json`` and the weights beside it; a model with a tokeniser
of its own has the files of that in the folder, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
from open_clip.factory import _find_checkpoint_in_dir
from torch import Tensor, nn

from models.frozen import freeze
from utils.files import FileError

logger = logging.getLogger(__name__)

CONFIG = "open_clip_config.json"
_REMEDY = "download the whole folder of the model: its config, weights and tokeniser"


def load_open_clip(folder: str | Path) -> tuple[Callable[[Sequence[str]], Tensor], nn.Module]:
    """Tokeniser and frozen model of a folder.

    Raises:
        FileNotFoundError: there is no such folder.
        FileError: it holds no model or no weights, or they do not fit each other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"--open_clip {folder} is no folder; {_REMEDY}")
    if not (folder / CONFIG).is_file():
        raise FileError(folder, f"holds no {CONFIG}", _REMEDY)
    if _find_checkpoint_in_dir(folder) is None:  # open_clip would go on with random weights
        raise FileError(folder, "holds no weights (.safetensors, .bin, .pth)", _REMEDY)
    name = f"local-dir:{folder}"
    try:
        model = open_clip.create_model(name)
        tokenize = open_clip.get_tokenizer(name)
    except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        fault = f"holds no model that open_clip can load: {str(error).strip().splitlines()[0]}"
        raise FileError(folder, fault, _REMEDY) from error
    return _Tokenizer(tokenize), freeze(model).eval()


@torch.inference_mode()
def encode_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """L2-normalised embeddings ``[n, width]``, float32, of token ids ``[n, context]``."""
    return nn.functional.normalize(model.encode_text(tokens).float(), dim=-1)


class _Tokenizer:
    """Token ids ``[n, context]``; sentences that are cut are counted in the log."""

    def __init__(self, tokenize: Callable[..., Tensor]) -> None:
        self.tokenize, self.length = tokenize, tokenize([""]).shape[1]
        self.pad = tokenize([""])[0, -1]

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        sentences = list(sentences)
        # With room for one token more, that one is taken where the sentence has no end yet.
        longer = self.tokenize(sentences, context_length=self.length + 1)[:, -1] != self.pad
        if longer.any():
            first = sentences[int(longer.nonzero()[0, 0])]
            logger.warning(
                "%d sentences are too long and lose their end, such as %r", int(longer.sum()), first
            )
        return self.tokenize(sentences)

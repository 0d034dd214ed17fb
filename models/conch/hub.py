"""Where CONCH's text tower and its tokeniser come from."""

from models.encoders import HubFile
from utils import constants

HUB = (
    HubFile(
        "MahmoodLab/CONCH",
        "pytorch_model.bin",
        lambda: constants.CONCH_CHECKPOINT,
        "f9ca9f877171a28ade80228fb195ac5d79003357",
    ),
)
# Not on the hub: part of the authors' code, under their licence.
TOKENIZER_SOURCE = (
    "https://github.com/mahmoodlab/CONCH/blob/main/conch/open_clip_custom/tokenizers/"
    "conch_byte_level_bpe_uncased.json"
)

"""Modalities: how the data of a case, other than its slides, are read and become tokens.

A further modality is one file here: a :class:`Modality` that :func:`register_modality` knows.
"""

from models.modalities.base import Entries, Modality, ModalityEncoder
from models.modalities.registry import all_modalities, modality, read_tables, register_modality

__all__ = [
    "Entries",
    "Modality",
    "ModalityEncoder",
    "all_modalities",
    "modality",
    "read_tables",
    "register_modality",
]

"""Modality encoders: how the data of a case, other than its slides, become tokens.

A further modality is one file here with its :class:`ModalityEncoder`, a name in the list below, a field of
:class:`data_utils.cases.case.Case`, and where its data are read: a line in ``constants.MODALITIES`` (with a flag
in ``utils.arguments``) and one in ``CohortData.read`` of ``data_utils.cases.cohort_data``.
"""

from models.modalities.base import ModalityEncoder
from models.modalities.clinical import ClinicalEncoder
from models.modalities.genes import GeneEncoder
from models.modalities.vectors import VectorEncoder

MODALITIES: dict[str, type[ModalityEncoder]] = {
    encoder.name: encoder for encoder in (GeneEncoder, ClinicalEncoder, VectorEncoder)
}

__all__ = ["MODALITIES", "ClinicalEncoder", "GeneEncoder", "ModalityEncoder", "VectorEncoder"]

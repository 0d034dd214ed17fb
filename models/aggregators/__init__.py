"""Everything that maps a case to an output vector, one file each, and the registry of them."""

from models.aggregators.registry import (
    MISSING_MODALITIES,
    Aggregator,
    DataSpec,
    aggregator,
    available_aggregators,
    build_aggregator,
    modalities_of,
    register,
)

__all__ = [
    "MISSING_MODALITIES",
    "Aggregator",
    "DataSpec",
    "aggregator",
    "available_aggregators",
    "build_aggregator",
    "modalities_of",
    "register",
]

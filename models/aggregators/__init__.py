"""Everything that maps a case to an output vector, one file each, and the registry of them."""

from models.aggregators.registry import DataSpec, available_aggregators, build_aggregator, register

__all__ = ["DataSpec", "available_aggregators", "build_aggregator", "register"]

"""What tests say of the data to a model (see :class:`models.aggregators.DataSpec`)."""

from collections.abc import Sequence
from typing import Any


def structures(
    pathways: Sequence[Sequence[int]], vectors: Sequence[int | None] | None = None
) -> dict[str, Any]:
    """Structures of genes in the pathways given, and of precomputed vectors of a shape."""
    count = 1 + max(gene for group in pathways for gene in group)
    genes = {
        "names": [f"P{k}" for k in range(len(pathways))],
        "genes": [f"G{k}" for k in range(count)],
        "indices": [list(group) for group in pathways],
    }
    return {"genes": genes} if vectors is None else {"genes": genes, "vectors": list(vectors)}


def of_sizes(sizes: Sequence[int]) -> dict[str, Any]:
    """Structures of pathways that overlap, of the sizes given."""
    return structures([range(size) for size in sizes])

"""What each branch of LongNet's dilated attention sees of a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from torch import Tensor

# Stands for the log-sum-exp of a branch that has not seen a position.
ABSENT = -1e8


@dataclass(frozen=True)
class Part:
    """Segments of one branch that have the same length: all full ones, or the shorter last one.

    Attributes:
        branch: number of the branch.
        start: first position.
        count: number of segments, ``n``.
        length: positions of a segment.
        ratio: every ``ratio``-th position is seen.
        heads: number of heads.
        padding: zero keys that the published encoder appends to a segment, per head.
        segment: the branch's, which may be longer than the sequence.
    """

    branch: int
    start: int
    count: int
    length: int
    ratio: int
    heads: int
    padding: int
    segment: int

    @property
    def positions(self) -> int:
        """Positions of a segment that one head sees, ``M``; late heads may see one less."""
        return -(-self.length // self.ratio)

    @cached_property
    def diagonals(self) -> tuple[tuple[int, int, int, int], ...]:
        """First offset, number of offsets, heads of each and positions of each, of what is seen.

        The heads of an offset are one group. The last group may be smaller; late offsets may see one position
        less. So there are at most two strided views where ``ratio`` divides the heads.
        """
        group = -(-self.heads // self.ratio)
        offsets = min(self.ratio, self.length, -(-self.heads // group))
        full = min(offsets, self.heads // group)
        longer = self.length - (self.positions - 1) * self.ratio  # offsets that see all positions
        found = []
        for first, last, heads in ((0, full, group), (full, offsets, self.heads - full * group)):
            for start, stop, positions in (
                (first, min(last, longer), self.positions),
                (max(first, longer), last, self.positions - 1),
            ):
                if start < stop and positions:
                    found.append((start, stop - start, heads, positions))
        return tuple(found)

    def seen(self, dense: Tensor) -> Iterator[Tensor]:
        """Views ``[..., n, M, offsets, heads, D]`` of what heads see of ``dense [..., L, H, D]``."""
        group = -(-self.heads // self.ratio)
        *outer, along, across, inner = dense.stride()
        strides = (*outer, self.length * along, self.ratio * along, along + group * across, across, inner)
        for first, offsets, heads, positions in self.diagonals:
            yield dense.as_strided(
                (*dense.shape[:-3], self.count, positions, offsets, heads, dense.shape[-1]),
                strides,
                dense.storage_offset() + (self.start + first) * along + first * group * across,
            )

    def pairs(self, dense: Tensor, sparse: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of ``dense [..., L, H, D]`` beside the same elements of ``sparse [..., n, H, M, D]``.

        Together the pairs cover every element of the part that is no padding, each once.
        """
        group = -(-self.heads // self.ratio)
        *outer, across, along, inner = sparse.stride()
        for seen, (first, _, heads, _) in zip(self.seen(dense), self.diagonals, strict=True):
            yield (
                seen,
                sparse.as_strided(
                    (*seen.shape[:-1], sparse.shape[-1]),
                    (*outer, along, heads * across, across, inner),
                    sparse.storage_offset() + first * group * across,
                ),
            )

    def empty(self, dense: Tensor) -> Tensor:
        """Room for what the part sees of ``dense``, zeros where a head sees less than ``M``: ``[..., n, H, M, D]``.

        In memory, heads come first: the kernels read rows in order.
        """
        new = dense.new_zeros if self.length % self.ratio else dense.new_empty
        return new(*dense.shape[:-3], self.count, self.heads, self.positions, dense.shape[-1])

    def gather(self, dense: Tensor) -> Tensor:
        """What the part sees of ``dense [..., B, L, H, D]``: ``[..., B * n, H, M, D]``."""
        sparse = self.empty(dense)
        for source, target in self.pairs(dense, sparse):
            target.copy_(source)
        return sparse.flatten(-5, -4)

    def spread(self, sparse: Tensor) -> Tensor:
        """``[B * n, H, M, ...]``, what attention gives, as :meth:`pairs` takes it: ``[B, n, H, M, ...]``."""
        return sparse.unflatten(0, (-1, self.count))


@lru_cache(maxsize=64)
def plan(segments: tuple[int, ...], ratios: tuple[int, ...], length: int, heads: int) -> tuple[Part, ...]:
    """The parts of a sequence; segments longer than the sequence shrink to it."""
    parts = []
    for branch, (given, ratio) in enumerate(zip(segments, ratios, strict=True)):
        segment = min(given, length)
        full, rest = divmod(length, segment)
        parts.append(Part(branch, 0, full, segment, ratio, heads, 0, given))
        if rest:
            padding = parts[-1].positions - -(-rest // ratio)
            parts.append(Part(branch, full * segment, 1, rest, ratio, heads, padding, given))
    return tuple(parts)

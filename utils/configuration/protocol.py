"""What ``--protocol`` decides, in one table.

``published`` does what the published code does, ``strict`` lets nothing of validation and test patients into the
training and stacks slides without overlap. Whatever is not in this table is the same under both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TRAINING_SPLIT = "training split"
UNKNOWN_LAST = "unknown, after all others"


@dataclass(frozen=True)
class Protocol:
    """The choices of a protocol.

    Attributes:
        fitted_on: what gene scalers, clinical codes, survival bins and quartile edges are fitted on:
            ``all cases`` or the ``training split``.
        missing_text: how a missing clinical text is coded, see data_utils.tables.clinical.
        gene_scaling: default of ``--gene_scaling`` in pan-cancer runs: ``union`` or ``site``.
        ties: which of the epochs that validate equally well is kept, ``latest`` or ``earliest``.
        slide_stacking: how slides of a case are shifted: ``published`` (not cumulative) or ``cumulative``.
    """

    fitted_on: str
    missing_text: str
    gene_scaling: str
    ties: str
    slide_stacking: str

    @property
    def training_only(self) -> bool:
        """Whether what is learned of tables (scalers, codes, bins, edges) may see the training split only."""
        return self.fitted_on == TRAINING_SPLIT

    @property
    def unknown_is_a_category(self) -> bool:
        """Whether a missing clinical text always has a code of its own, after all others."""
        return self.missing_text == UNKNOWN_LAST

    def better(self, score: Sequence[float], best: Sequence[float]) -> bool:
        """Whether a validation score replaces the best one of the epochs before.

        The first number of a score decides (balanced accuracy). Where it is equal, ``latest`` takes the later
        epoch as the published code does; ``earliest`` asks the other numbers first. Where it cannot be
        evaluated (minus infinity), the other numbers decide under both. Where nothing can be, the later epoch is
        kept: the first one has hardly learned.
        """
        if all(value == -math.inf for value in (*score, *best)):
            return True
        if self.ties == "earliest":
            return tuple(score) > tuple(best)
        decisive = len(score) if score[0] == -math.inf else 1
        return tuple(score[:decisive]) >= tuple(best[:decisive])


PROTOCOLS: Mapping[str, Protocol] = {
    "published": Protocol("all cases", "Nan, in alphabetical order", "union", "latest", "published"),
    "strict": Protocol(TRAINING_SPLIT, UNKNOWN_LAST, "site", "earliest", "cumulative"),
}

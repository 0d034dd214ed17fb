"""Metrics of a run over its epochs: always ``metrics.csv``, Weights & Biases where asked for."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from utils.evaluation import plots
from utils.files import atomic_path

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.csv"
CURVES_FILE = Path("figures") / "training_curves.png"
WANDB_ID_FILE = "wandb_id.txt"
WANDB_MODES = ("disabled", "offline", "online")


class Tracker:
    """Writes one row of metrics per epoch to ``<output_dir>/metrics.csv``.

    A context manager: the end of the block ends the wandb run, as failed where an error ends it.

    Args:
        output_dir: run folder.
        wandb_mode: ``disabled``, ``offline`` or ``online``. wandb is imported for the last two only.
        config: settings of the run, for wandb.
        rows: of the epochs the run continues after, as its checkpoint knows them; the file, which may hold
            later ones, is written anew from them. None starts anew.
        project: wandb project.
        silent: only remember the rows; for the processes of a run that write no files.

    Raises:
        ImportError: wandb is asked for and not installed.
        ValueError: unknown mode.
    """

    def __init__(
        self,
        output_dir: str | Path,
        wandb_mode: str = "disabled",
        config: Mapping[str, Any] | None = None,
        rows: Mapping[int, Mapping[str, float]] | None = None,
        project: str = "modaltune",
        silent: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.path = self.output_dir / METRICS_FILE
        self.silent = silent
        self.rows: dict[int, dict[str, float]] = {epoch: dict(row) for epoch, row in (rows or {}).items()}
        if rows is None and not silent and self.path.exists():
            logger.warning("%s of an earlier run is replaced", self.path)
        if self.rows:
            self._write()
        self._wandb_run = self._start_wandb(
            "disabled" if silent else wandb_mode, config, rows is not None, project
        )

    # ------------------------------------------------------------------------ what a run calls
    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Adds the row of an epoch; a second call for the last epoch adds columns to its row.

        Raises:
            ValueError: the epoch lies before one already logged.
            TypeError: a metric is no number.
        """
        if self.rows and epoch < max(self.rows):
            raise ValueError(
                f"epoch {epoch} after epoch {max(self.rows)}; continue from a checkpoint before it"
            )
        row = {name: _number(name, value) for name, value in metrics.items()}
        self.rows[epoch] = {**self.rows.get(epoch, {}), **row}
        self._write()
        if self._wandb_run is not None:
            self._wandb_run.log({k: v for k, v in row.items() if not math.isnan(v)}, step=epoch)

    def history(self) -> pd.DataFrame:
        """All rows so far: ``epoch``, then the metrics in the order they came up."""
        rows = [{"epoch": epoch, **row} for epoch, row in self.rows.items()]
        return pd.DataFrame(rows) if rows else pd.DataFrame({"epoch": pd.Series(dtype=int)})

    def plot(self) -> Path | None:
        """Draws the curves so far; returns their path, None where nothing was logged."""
        if not self.rows or self.silent:
            return None
        path = self.output_dir / CURVES_FILE
        plots.training_curves(self.history(), path)
        return path

    def close(self, failed: bool = False) -> None:
        """Ends the wandb run, if there is one."""
        if self._wandb_run is not None:
            self._wandb_run.finish(exit_code=int(failed))
            self._wandb_run = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(failed=kind is not None)

    # ------------------------------------------------------------------------ parts
    def _write(self) -> None:
        if self.silent:
            return
        # Written as a whole: columns may come up later, and a crash leaves the file of the epoch before.
        with atomic_path(self.path) as temporary:
            self.history().to_csv(temporary, index=False)

    def _start_wandb(self, mode: str, config: Mapping[str, Any] | None, resume: bool, project: str) -> Any:
        if mode not in WANDB_MODES:
            raise ValueError(f"wandb_mode {mode!r} should be one of {', '.join(WANDB_MODES)}")
        if mode == "disabled":
            return None
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                f"--wandb_mode {mode} needs wandb: pip install wandb, or use --wandb_mode disabled"
            ) from error
        self.output_dir.mkdir(parents=True, exist_ok=True)
        id_file = self.output_dir / WANDB_ID_FILE
        known = id_file.read_text(encoding="utf-8").strip() if resume and id_file.exists() else None
        run = wandb.init(
            project=project,
            name=self.output_dir.name,
            dir=str(self.output_dir),
            mode=mode,
            config=dict(config or {}),
            id=known,
            resume="allow",
        )
        with atomic_path(id_file) as temporary:
            temporary.write_text(run.id, encoding="utf-8")
        return run


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metric {name!r} is no number: {value!r}") from error

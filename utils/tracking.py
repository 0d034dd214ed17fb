"""Metrics of a run over its epochs: always ``metrics.csv``, Weights & Biases where asked for."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from utils import plots
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
        resume_epoch: last epoch of the checkpoint the run continues from; rows up to it stay, later ones
            (written after that checkpoint) are dropped. None starts anew.
        project: wandb project.

    Raises:
        ImportError: wandb is asked for and not installed.
        ValueError: unknown mode, or the metrics file to continue is damaged.
    """

    def __init__(
        self,
        output_dir: str | Path,
        wandb_mode: str = "disabled",
        config: Mapping[str, Any] | None = None,
        resume_epoch: int | None = None,
        project: str = "modaltune",
    ) -> None:
        self.output_dir = Path(output_dir)
        self.path = self.output_dir / METRICS_FILE
        self._rows: dict[int, dict[str, float]] = {}
        if resume_epoch is not None:
            self._rows = self._read(resume_epoch)
        elif self.path.exists():
            logger.warning("%s of an earlier run is replaced", self.path)
        self._wandb_run = self._start_wandb(wandb_mode, config, resume_epoch is not None, project)

    # ------------------------------------------------------------------------ what a run calls
    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Adds the row of an epoch; a second call for the last epoch adds columns to its row.

        Raises:
            ValueError: the epoch lies before one already logged.
            TypeError: a metric is no number.
        """
        if self._rows and epoch < max(self._rows):
            raise ValueError(
                f"epoch {epoch} after epoch {max(self._rows)}; continue with resume_epoch={epoch - 1}"
            )
        row = {name: _number(name, value) for name, value in metrics.items()}
        self._rows[epoch] = {**self._rows.get(epoch, {}), **row}
        # Written as a whole: columns may come up later, and a crash leaves the file of the epoch before.
        with atomic_path(self.path) as temporary:
            self.history().to_csv(temporary, index=False)
        if self._wandb_run is not None:
            self._wandb_run.log({k: v for k, v in row.items() if not math.isnan(v)}, step=epoch)

    def history(self) -> pd.DataFrame:
        """All rows so far: ``epoch``, then the metrics in the order they came up."""
        rows = [{"epoch": epoch, **row} for epoch, row in self._rows.items()]
        return pd.DataFrame(rows) if rows else pd.DataFrame({"epoch": pd.Series(dtype=int)})

    def plot(self) -> Path | None:
        """Draws the curves so far; returns their path, None where nothing was logged."""
        if not self._rows:
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
    def _read(self, last: int) -> dict[int, dict[str, float]]:
        if not self.path.exists():
            logger.warning("%s is missing: the metrics before epoch %d are lost", self.path, last + 1)
            return {}
        try:
            table = pd.read_csv(self.path, float_precision="round_trip")
            epochs = table.pop("epoch").astype(int)
            table = table.astype(float)
        except (KeyError, ValueError) as error:  # pandas' parser errors are ValueErrors
            raise ValueError(
                f"{self.path} is damaged ({error}); move it away to continue without its rows"
            ) from error
        return {
            epoch: {name: value for name, value in row.items() if not math.isnan(value)}
            for epoch, row in zip(epochs, table.to_dict("records"), strict=True)
            if epoch <= last
        }

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

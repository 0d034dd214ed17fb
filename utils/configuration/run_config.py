"""What a run does, in groups of frozen dataclasses: built once from the flags, saved with the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from utils.files import content_of, read_json

T = TypeVar("T")
# Fields on which no number depends: they may change between two calls on one run folder.
_FREE = {"free": True}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which patients, and where the files about them lie; see the flags of the same names.

    Attributes:
        files: by modality; None where the cohort has none.
        options: by modality, the values of the flags that the modality adds.
        tasks: the task file; None where weights that are evaluated say it. Its content is kept with the weights, so
            that the path itself decides nothing.
        sites: cancer sites of a pan-cancer run; empty for one cohort.
        num_classes: subtype classes, of every site.
    """

    onco: str | None = None
    train_json: Path
    val_json: Path
    test_json: Path
    features_dir: Path | None = None
    files: Mapping[str, Path | None] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tasks: Path | None = field(default=None, metadata=_FREE)
    text_location: Path | None = None
    candidate_location: Path | None = None
    missing_modalities: str = "drop"
    threshold: int | None = None
    patch_size_lv0: int | None = None
    protocol: str = "published"
    num_folds: int = 1
    fold_json: Path | None = None
    survpath_protocol: bool = False
    sites: tuple[str, ...] = ()
    num_classes: tuple[int, ...] = (2,)

    @property
    def split_files(self) -> dict[str, Path]:
        """Split files by name of the split."""
        return {"train": self.train_json, "val": self.val_json, "test": self.test_json}

    @property
    def classes_by_site(self) -> dict[str, int]:
        """Number of classes by cancer site; the name is empty where there is but one."""
        return dict(zip(self.sites or ("",), self.num_classes, strict=True))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model; see the flags of the same names.

    Attributes:
        num_tasks: task tokens; None where weights that are evaluated say it.
    """

    mil_name: str
    model_config: Path
    num_tasks: int | None = 3
    backbone_weights: Path | None = None
    random_backbone: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Numbers of a training; see the flags of the same names."""

    recipe: str = "ours"
    model_select: str = "best"
    num_epochs: int = 30
    lr: float = 1e-4
    weight_decay: float = 5e-4
    beta1: float = 0.9
    gc: int = 1
    seed: int = 0
    multi_seed: int = field(default=1, metadata=_FREE)
    objective: str = "distill"
    task_weights: tuple[float, ...] = ()
    nll_alpha: float = 0.5
    site_sampling: str = "natural"
    modality_dropout: float = 0.0
    eval_interval: int = 1
    save_interval: int = field(default=1, metadata=_FREE)
    keep_checkpoints: int = field(default=0, metadata=_FREE)
    modality_report_every: int = field(default=0, metadata=_FREE)
    checkpoint_minutes: float = field(default=10.0, metadata=_FREE)
    resume: str = field(default="auto", metadata=_FREE)
    max_skipped: int = field(default=10, metadata=_FREE)


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Where and how it is computed; see the flags of the same names."""

    device: str = field(default="auto", metadata=_FREE)
    workers: int = field(default=0, metadata=_FREE)
    cache_features: str = field(default="none", metadata=_FREE)
    use_amp: bool = False
    tf32: bool = False
    activation_checkpointing: str = field(default="auto", metadata=_FREE)
    compile: bool = field(default=False, metadata=_FREE)


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What is evaluated and written; see the flags of the same names."""

    output_path: Path = field(metadata=_FREE)
    eval_only: bool = False
    eval_weights: Path | None = None
    eval_name: str | None = field(default=None, metadata=_FREE)
    save_embeddings: bool = True
    stratified_cox: bool = False
    wandb_mode: str = field(default="disabled", metadata=_FREE)

    @property
    def folder(self) -> Path:
        """Where this run writes."""
        return self.output_path / self.eval_name if self.eval_name else self.output_path


@dataclass(frozen=True)
class RunConfig:
    """Everything that a training or an evaluation was asked to do."""

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    compute: ComputeConfig
    output: OutputConfig

    def plain(self, free: bool = True) -> dict[str, dict[str, Any]]:
        """Values that JSON can hold, by group.

        Args:
            free: with the fields on which no number depends.
        """
        groups = {}
        for group in fields(self):
            values = getattr(self, group.name)
            kept = {f.name for f in fields(values) if free or "free" not in f.metadata}
            groups[group.name] = {k: _plain(v) for k, v in asdict(values).items() if k in kept}
        return groups

    @classmethod
    def from_plain(cls, value: Mapping[str, Any], where: str | Path) -> RunConfig:
        """Inverse of :meth:`plain`.

        Raises:
            ValueError: a group or field is missing or unknown; the message begins with ``where``.
        """
        hints = get_type_hints(cls)
        if value.keys() != hints.keys():
            raise ValueError(f"{where}: the groups of a run are {sorted(hints)}, found {sorted(value)}")
        return cls(**{name: _group(hints[name], value[name], f"{where}: {name}") for name in hints})

    @classmethod
    def read(cls, folder: Path) -> RunConfig:
        """The configuration of a run folder.

        Raises:
            FileNotFoundError: the folder holds no ``config.json``.
            ValueError: it is damaged.
        """
        path = folder / "config.json"
        with content_of(path, "copy it again; if the run is of an older version, evaluate it anew"):
            return cls.from_plain(read_json(path)["arguments"], "arguments")

    def paths(self) -> Iterator[tuple[str, Path]]:
        """Every path with its name, ``group.field`` or ``data.files.modality``."""
        for group in fields(self):
            for name, value in asdict(getattr(self, group.name)).items():
                yield from _paths(f"{group.name}.{name}", value)


_PLAIN = (int, float, str, bool, NoneType)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _paths(name: str, value: Any) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _paths(f"{name}.{key}", item)


def _is(value: Any, kind: type) -> bool:
    """Whether a value is of a plain kind; whole numbers are numbers, truth values are not."""
    return isinstance(value, (kind, int) if kind is float else kind) and (
        kind is bool or not isinstance(value, bool)
    )


def _group(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    hints = get_type_hints(cls)
    if unknown := values.keys() - hints.keys():
        raise ValueError(f"{where}: unknown {sorted(unknown)}; there are {sorted(hints)}")
    typed = {}
    for name, value in values.items():
        kinds = get_args(hints[name]) if isinstance(hints[name], UnionType) else (hints[name],)
        if isinstance(value, str) and Path in kinds:
            value = Path(value)
        elif isinstance(value, list):
            value = tuple(value)
        elif name == "files":
            value = {key: None if item is None else Path(item) for key, item in value.items()}
        plain = [kind for kind in kinds if kind in (*_PLAIN, Path)]
        if len(plain) == len(kinds) and not any(_is(value, kind) for kind in plain):
            raise ValueError(f"{where}: {name} is {str(value)[:60]!r}, it should be {hints[name]}")
        typed[name] = value
    try:
        return cls(**typed)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error

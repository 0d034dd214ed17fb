"""Slide encoders: what each one declares, and the registry that scripts and flags ask.

A slide encoder is one folder with a module ``encoder`` that registers its declaration. Nothing else lists it::

    python -m models.encoders                    # every name
    python -m models.encoders titan prefix       # one fact about one encoder
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.plugins import load_plugins

# Whose features a model takes that names no encoder.
DEFAULT = "gigapath"


@dataclass(frozen=True)
class HubFile:
    """A file of the Hugging Face hub, for ``python -m utils.weights``.

    Attributes:
        repo: such as ``prov-gigapath/prov-gigapath``.
        name: of the file in it.
        place: where it goes.
        revision: commit it is taken from; ``main`` is the newest, whatever that is on the day.
    """

    repo: str
    name: str
    place: Callable[[], Path]
    revision: str = "main"


@dataclass(frozen=True, kw_only=True)
class SlideEncoder:
    """What a slide encoder declares. Modules are named, not imported, so that asking costs nothing.

    Attributes:
        name: of its folder of patch features; ends the names of its split files.
        prefix: first word of its models' ``--mil_name``.
        backbone: ``module:class`` of its :class:`models.slide_backbone.SlideBackbone`, which knows the width of the
            features, the position grid and how a patch size is checked.
        weights: where its official checkpoint lies.
        source: where people get that.
        config: model config of ModalTune on it.
        demo_config: of a small ModalTune on it, for the demo.
        balanced_config, demo_balanced_config: the same with every modality at one scale (docs/modality_balance.md).
        threshold: cases with more patches are sub-sampled.
        hub: the files behind ``weights`` and ``tile_weights``, where they can be fetched.
        extraction: module that makes its patch features, with flags that it needs to know the encoder by.
        tile_builder: ``module:function`` from a config to its patch encoder.
        tile_reader: ``module:function`` from a path to the state dict of the patch encoder.
        tile_weights: name in utils.constants of the patch encoder's checkpoint.
        tile_config: config of the patch encoder.
        demo_tile_config: of a small patch encoder.
        dilated: whether it has the dilated attention that is worth a look at the kernels.
    """

    name: str
    prefix: str
    backbone: str
    weights: Callable[[], Path]
    source: str
    config: Path
    threshold: int
    demo_config: Path | None = None
    balanced_config: Path | None = None
    demo_balanced_config: Path | None = None
    hub: tuple[HubFile, ...] = ()
    extraction: str | None = None
    tile_builder: str | None = None
    tile_reader: str | None = None
    tile_weights: str | None = None
    tile_config: Path | None = None
    demo_tile_config: Path | None = None
    dilated: bool = False

    def load(self, attribute: str) -> Any:
        """What a ``module:name`` of this declaration stands for.

        Raises:
            ValueError: the encoder has none.
        """
        target = getattr(self, attribute)
        if target is None:
            raise ValueError(f"slide encoder {self.name} declares no {attribute}")
        module, name = target.split(":")
        return getattr(importlib.import_module(module), name)


_REGISTERED: dict[str, SlideEncoder] = {}


def register_encoder(encoder: SlideEncoder) -> SlideEncoder:
    """Makes a slide encoder known.

    Raises:
        ValueError: its name or prefix is taken.
    """
    for other in _REGISTERED.values():
        for attribute in ("name", "prefix"):
            if (taken := getattr(encoder, attribute)) == getattr(other, attribute):
                raise ValueError(
                    f"slide encoder {encoder.name}: the {attribute} {taken!r} is that of {other.name}"
                )
    _REGISTERED[encoder.name] = encoder
    return encoder


def slide_encoders() -> dict[str, SlideEncoder]:
    """Every registered slide encoder by name."""
    package = importlib.import_module("models")
    for module in pkgutil.iter_modules(package.__path__):
        folder = Path(package.__path__[0]) / module.name
        if module.ispkg and (folder / "encoder.py").is_file():
            importlib.import_module(f"models.{module.name}.encoder")
    load_plugins()
    return dict(sorted(_REGISTERED.items()))


def slide_encoder(name: str) -> SlideEncoder:
    """The slide encoder of that name.

    Raises:
        ValueError: there is none.
    """
    known = slide_encoders()
    if name not in known:
        raise ValueError(f"unknown slide encoder {name!r}; there are {', '.join(known)}")
    return known[name]


def encoder_of(mil_name: str) -> SlideEncoder:
    """The slide encoder of a ``--mil_name``: that of its first words, or the default where they name none."""
    known = slide_encoders()
    fitting = [e for e in known.values() if mil_name == e.prefix or mil_name.startswith(f"{e.prefix}_")]
    return max(fitting, key=lambda e: len(e.prefix)) if fitting else known[DEFAULT]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints every name, or facts about one encoder; exit status 2 where it is unknown."""
    parser = argparse.ArgumentParser(description="What is known of the slide encoders.")
    parser.add_argument("name", nargs="?", help="a slide encoder")
    parser.add_argument("fact", nargs="*", help="prefix, config, demo_config, extraction, ...; one line each")
    args = parser.parse_args(argv)
    if args.name is None:
        sys.stdout.write("\n".join(slide_encoders()) + "\n")
        return 0
    try:
        encoder = slide_encoder(args.name)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if unknown := [fact for fact in args.fact if not hasattr(encoder, fact)]:
        sys.stderr.write(f"nothing is known of {unknown}; there are {sorted(vars(encoder))}\n")
        return 2
    for fact in args.fact:
        value = getattr(encoder, fact)
        if value is None:
            sys.stderr.write(f"slide encoder {encoder.name} declares no {fact}\n")
            return 2
        sys.stdout.write(f"{value() if callable(value) else value}\n")
    return 0


if __name__ == "__main__":
    # As a script this module would be a second registry.
    raise SystemExit(importlib.import_module("models.encoders").main())

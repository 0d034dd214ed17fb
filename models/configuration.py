"""Model configs: JSON objects become dataclasses or networks, and an unknown key is an error."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from utils.files import quoted

# No size or factor of a model is larger; one that is would fill the memory before anything fails.
LARGEST = 1 << 24
# By how names end: blocks are built one by one, and of a share no more than all can be meant.
_BOUNDS = {"depth": 1000, "layers": 1000, "dropout": 1, "_rate": 1}

T = TypeVar("T")


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass ``cls`` from ``values``.

    Args:
        cls: a dataclass.
        values: its fields.
        where: name of the file or section, for messages.

    Raises:
        ValueError: a key is unknown (the message suggests a known one), a required one is missing, or a value is of
            another type than the field, not finite or out of its bounds.
    """
    known = {field.name: field for field in fields(cls)}
    required = [
        name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING
    ]
    _check_keys(values, known, required, where)
    for name, kind in get_type_hints(cls).items():
        if name in values:
            _check(values[name], kind, known[name].metadata, f"{where}: {name}")
    return cls(**values)


def construct(make: Callable[..., T], values: Mapping[str, Any], where: str, **given: Any) -> T:
    """``make(**given, **values)``, where ``values`` are of a config and fit the annotations of ``make``.

    Numbers without a fraction are sizes there, so that they are at least 1.

    Args:
        make: a class or function with annotated arguments.
        values: those of its arguments that are not ``given``.
        where: as in :func:`from_mapping`.
        given: arguments that do not come from the config.

    Raises:
        ValueError: as :func:`from_mapping`.
    """
    known = {name: p for name, p in inspect.signature(make).parameters.items() if name not in given}
    passed_on = [name for name, p in known.items() if p.kind is p.VAR_KEYWORD]  # checked where they are used
    required = [name for name, p in known.items() if p.default is p.empty and name not in passed_on]
    _check_keys(values, {*known, *(values if passed_on else ())}, required, where)
    hints = get_type_hints(make.__init__ if inspect.isclass(make) else make)
    for name, value in values.items():
        kind = hints.get(name, Any)
        sizes = kind is int or int in get_args(kind)[:1]
        _check(value, kind, {"least": int(sizes)}, f"{where}: {name}")
    return make(**given, **values)


def _check_keys(
    values: Mapping[str, Any], known: Collection[str], required: Collection[str], where: str
) -> None:
    """Raises ValueError where a key is unknown or missing."""
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys are {sorted(known)}"
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{where}: missing keys {missing}")


def _check(value: Any, kind: Any, bounds: Mapping[str, float], where: str) -> None:
    """Raises ValueError where a plain value has another type than its field, or is no size at all."""
    if get_origin(kind) in (Sequence, list, tuple):
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} is {quoted(repr(value), 60)}, it should be a list")
        for item in value:
            _check(item, get_args(kind)[0], bounds, where)
        return
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    plain = [k for k in kinds if k in (int, float, bool, str, NoneType)]
    if len(plain) < len(kinds):
        check_nested(value, where)
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = any(type(value) is k or (k is float and number) for k in plain)
    if not fits:
        wanted = " or ".join("null" if k is NoneType else k.__name__ for k in plain)
        raise ValueError(f"{where} is {quoted(repr(value), 60)}, it should be {wanted}")
    if number:
        _check_number(value, where, bounds.get("least", 0), bounds.get("most"))


def check_nested(value: Any, where: str) -> None:
    """Raises ValueError where a number in nested objects and lists cannot be one of a model.

    Whether the parts of a model know these names is found when they are built.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            check_nested(item, f"{where}: {name}")
    elif isinstance(value, (list, tuple)):
        if len({isinstance(item, bool) for item in value}) > 1:
            raise ValueError(f"{where} is {quoted(repr(value), 60)}, its entries are of different types")
        for item in value:
            check_nested(item, where)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_number(value, where)


def _check_number(value: float, where: str, least: float = 0, most: float | None = None) -> None:
    """Raises ValueError where a number is not finite, negative or larger than its name allows."""
    if most is None:
        most = next((bound for ending, bound in _BOUNDS.items() if where.endswith(ending)), LARGEST)
    if not (math.isfinite(value) and value <= most):
        raise ValueError(f"{where} is {quoted(repr(value), 60)}, it may be {most:,} at most")
    if value < least:
        raise ValueError(f"{where} is {value}, it must be {least} at least")

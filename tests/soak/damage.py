"""Ways in which files are damaged: bytes of any file, text, and what containers hold.

A changed digit or letter is another value that nobody could tell from the right one, so none of the changes makes a
number of a number, or a word of a word. For the same reason no table is cut within its last number, and no object of a
JSON file that may be left out is emptied.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

import h5py
import numpy as np
import safetensors.torch
import torch
from torch import Tensor

# What a server sends instead of a file, and what Git leaves where a large file was not fetched.
_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>401</body></html>\n"
_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
LONG = "x" * 100_000

Change = Callable[[bytes, random.Random], tuple[str, bytes]]


def _pick(
    content: bytes, rng: random.Random, changes: Mapping[str, Callable[[], bytes]]
) -> tuple[str, bytes]:
    name = rng.choice(sorted(changes))
    return name, changes[name]()


def _any_file(content: bytes, at: int, rng: random.Random) -> dict[str, Callable[[], bytes]]:
    return {
        "cut": lambda: content[:at],
        "NUL": lambda: content[:at] + b"\0" + content[at:],
        "gzip cut": lambda: gzip.compress(content)[: -1 - at % 20],
        "empty": lambda: b"",
        "binary": lambda: rng.randbytes(1 + at),
        "page": lambda: _PAGE,
        "pointer": lambda: _POINTER,
    }


# ---------------------------------------------------------------------------- text
def text(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done to a table or a JSON file, and the content after it."""
    at = rng.randrange(len(content))
    changes = _any_file(content, at, rng) | {
        "cut": lambda: content[:at] if b"{" in content[:1] else re.sub(rb"[\d.]+$", b"", content[:at]),
        "not UTF-8": lambda: content[:at] + b"\xe9" + content[at:],
        "UTF-16": lambda: content.decode().encode("utf-16"),
        "UTF-16 without mark": lambda: content.decode().encode("utf-16-le"),
        "mark": lambda: b"\xef\xbb\xbf" + content,
        "gzip": lambda: gzip.compress(content),
        "CRLF": lambda: content.replace(b"\n", b"\r\n"),
        "brackets": lambda: b"[" * 100_000,
        "separator gone": lambda: _without_separator(content, rng),
        "quote": lambda: content[:at] + b'"' + content[at:],
        "long": lambda: content[:at] + LONG.encode() + content[at:],
        "twice": lambda: content + content,
    }
    return _pick(content, rng, changes)


def _without_separator(content: bytes, rng: random.Random) -> bytes:
    """One less; in a table with tabs, and behind a text of JSON, commas may be letters of a value."""
    separators = (b"\t",) if b"\t" in content else (b",\n", b", ") if content[:1] in b"[{" else (b",",)
    places = [n for n in range(len(content)) if content.startswith(separators, n)]
    if not places:
        return content
    at = rng.choice(places)
    return content[:at] + content[at + 1 :]


def json_file(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """As :func:`text`, or values of other types and misspelt keys."""
    if rng.random() < 0.5:
        return text(content, rng)
    value = json.loads(content)
    what = _change_tree(value, rng, _ODD_PLAIN, remove=False)
    return what, json.dumps(value, indent=2).encode()


# ---------------------------------------------------------------------------- containers
def binary(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done to the bytes of a container, and the content after it."""
    at = rng.randrange(len(content))
    changes = _any_file(content, at, rng) | {
        "gzip": lambda: gzip.compress(content),
        "twice": lambda: content + content,
        "more at the end": lambda: content + rng.randbytes(100),
        "more at the beginning": lambda: rng.randbytes(1) + content,
    }
    return _pick(content, rng, changes)


def hole(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """As :func:`binary`, or bytes that a broken copy left out; for containers that have checksums."""
    if rng.random() < 0.7:
        return binary(content, rng)
    at, length = rng.randrange(len(content)), rng.choice((1, 64, 4096))
    end = min(len(content), at + length)
    part = bytes(byte ^ 0x55 for byte in content[at:end]) if length == 1 else bytes(end - at)
    return f"hole of {end - at}", content[:at] + part + content[end:]


def tensors(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A file of ``torch.save``: its bytes, or what it holds."""
    if rng.random() < 0.5:
        return hole(content, rng)
    value = torch.load(io.BytesIO(content), weights_only=True)
    what = _change_tree(value, rng, {**_ODD_PLAIN, **_ODD_TENSORS})
    packed = io.BytesIO()
    torch.save(value, packed)
    return what, packed.getvalue()


def safetensors_file(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A file of safetensors: its bytes, or what it holds."""
    if rng.random() < 0.5:
        return binary(content, rng)
    value = safetensors.torch.load(content)
    what = _change_tree(value, rng, {n: c for n, c in _ODD_TENSORS.items() if n not in _NO_SAFETENSORS})
    return what, safetensors.torch.save({name: tensor.contiguous() for name, tensor in value.items()})


def npy(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A file of ``numpy.save``: its bytes, or the array."""
    if rng.random() < 0.5:
        return binary(content, rng)
    array = np.load(io.BytesIO(content))
    name = rng.choice(sorted(_ODD_ARRAYS))
    packed = io.BytesIO()
    np.save(packed, _ODD_ARRAYS[name](array))
    return name, packed.getvalue()


def npz(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A file of ``numpy.savez``: its bytes, or one of its arrays."""
    if rng.random() < 0.5:
        return hole(content, rng)
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    key, name = rng.choice(sorted(arrays)), rng.choice(sorted(_ODD_ARRAYS))
    arrays[key] = _ODD_ARRAYS[name](arrays[key])
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return f"{key}: {name}", packed.getvalue()


def hdf5(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """An HDF5 file: its bytes, or a dataset or attribute in it."""
    if rng.random() < 0.5:
        return hole(content, rng)
    packed = io.BytesIO(content)
    with h5py.File(packed, "r+") as file:
        key = rng.choice(sorted(file))
        names = [*sorted(_ODD_ARRAYS), "gone", "a group", "attribute"]
        name, values, attributes = rng.choice(names), file[key][:], dict(file[key].attrs)
        if name == "attribute":
            file["coords"].attrs["patch_size_level0"] = rng.choice((-1, 0, 1e300, float("nan"), "many"))
            return f"attribute {file['coords'].attrs['patch_size_level0']}", _closed(file, packed)
        del file[key]
        if name == "a group":
            file[f"{key}/one"] = values
        elif name != "gone":
            file[key] = _ODD_ARRAYS[name](values)
            file[key].attrs.update(attributes)
        return f"{key}: {name}", _closed(file, packed)


def _closed(file: h5py.File, packed: io.BytesIO) -> bytes:
    file.close()
    return packed.getvalue()


# ---------------------------------------------------------------------------- values
_ODD_PLAIN: dict[str, Callable[[Any], Any]] = {
    "another type": lambda old: "many" if isinstance(old, (int, float)) else 7,
    "list": lambda old: [],
    "object": lambda old: {},
    "negative": lambda old: -1.5 if isinstance(old, (int, float)) else -1,
    "huge": lambda old: 2**40,
    "infinite": lambda old: float("inf"),
    "NaN": lambda old: float("nan"),
    "bool": lambda old: not isinstance(old, bool) or "yes",
}
_ODD_TENSORS: dict[str, Callable[[Any], Any]] = {
    "NaN": lambda old: (
        torch.full_like(old, torch.nan)
        if isinstance(old, Tensor) and old.is_floating_point()
        else torch.tensor(torch.nan)
    ),
    "one row less": lambda old: old.flatten()[:-1] if isinstance(old, Tensor) else torch.zeros(3),
    "empty": lambda old: torch.zeros(0),
    "complex": lambda old: torch.zeros(2, dtype=torch.complex64),
    "endless": lambda old: torch.zeros(1).expand(1 << 40),
    "sparse": lambda old: torch.zeros(2, 2).to_sparse(),
}
_NO_SAFETENSORS = ("endless", "sparse")
_ODD_ARRAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "one row less": lambda old: old[:-1] if old.ndim else old[None],
    "one axis less": lambda old: old.ravel(),
    "empty": lambda old: np.zeros(0),
    "NaN": lambda old: np.full(old.shape, np.nan),
    "infinite in half precision": lambda old: np.full(old.shape, np.inf, np.float16),
    "complex": lambda old: np.full(old.shape, 1j),
    "texts": lambda old: np.full(old.shape, b"many"),
    "fractions": lambda old: np.full(old.shape, -1e30),
}


def _change_tree(
    value: Any, rng: random.Random, odd: Mapping[str, Callable[[Any], Any]], remove: bool = True
) -> str:
    """Changes one place of nested dicts and lists."""
    places: list[tuple[Any, Any, str]] = []

    def walk(node: Any, where: str) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key, f"{where}/{key}"))
            if isinstance(node[key], (dict, list)):
                walk(node[key], f"{where}/{key}")

    walk(value, "")
    node, key, where = rng.choice(places)
    kind = rng.choice([*sorted(odd), "misspelt", *(["gone"] if remove else [])])
    if kind == "gone":
        del node[key]
    elif kind == "misspelt" and isinstance(node, dict):
        node[f"{key}_"] = node.pop(key)
    else:
        kind = rng.choice(sorted(odd)) if kind == "misspelt" else kind
        kind = "list" if kind == "object" and isinstance(node[key], dict) and not remove else kind
        node[key] = odd[kind](node[key])
    return f"{where[:60]}: {kind}"

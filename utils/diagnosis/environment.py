"""Packages, GPU, attention kernel and compiler."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from collections.abc import Iterator

import torch
from packaging.requirements import Requirement

from models.compilation import check_compiler
from models.encoders import encoder_of
from utils import constants
from utils.devices import pick_device
from utils.diagnosis.inputs import Inputs
from utils.findings import Finding, error, ok, warning

_INSTALL = "pip install -r requirements.txt, or let scripts/setup_env.sh do it (MODALTUNE_SKIP_SETUP=0)"
# What training and evaluation import, by name as modules.
TRAINING_MODULES = ("utils.training.run", "utils.test_utils_modaltune")


def check_packages(inputs: Inputs) -> Iterator[Finding]:
    """Installed packages against ``requirements.txt``, and whether the training can be imported."""
    found, complaints = 0, []
    for line in (constants.REPO_ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if not text:
            continue
        requirement = Requirement(text)
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            complaints.append(f"{requirement.name} is missing")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            found += 1
        else:
            complaints.append(f"{requirement.name} {version} is installed, wanted is {requirement.specifier}")
    yield ok(f"Python {platform.python_version()}, torch {torch.__version__}, {found} packages as required")
    for complaint in complaints:
        yield warning(f"package {complaint}; some step may need it", _INSTALL)
    for name in TRAINING_MODULES:
        try:
            importlib.import_module(name)
        except ImportError as reason:
            yield error(f"training cannot be imported ({name}): {reason}", _INSTALL)


def check_device(inputs: Inputs) -> Iterator[Finding]:
    """Which device a run takes, and which attention kernel follows."""
    try:
        device = pick_device(inputs.config.compute.device)
    except ValueError as reason:
        yield error(
            str(reason),
            "pass --device auto, or cpu where no GPU fits, or repair the driver or the CUDA build of PyTorch",
        )
        return
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        yield ok(f"{device}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    elif inputs.config.compute.device == "auto":
        yield warning(
            "PyTorch sees no GPU, so --device auto takes the CPU: a training step of 1,000 patches takes some "
            "ten seconds at the published size",
            "run on a machine with a GPU, or pass --device cpu if the CPU is meant",
        )
    else:
        yield ok("cpu, as asked for")
    yield from _check_kernel(inputs, device)
    if inputs.config.compute.compile:
        yield _check_compiler(device)


def _check_compiler(device: torch.device) -> Finding:
    try:
        check_compiler(device.type)
    except RuntimeError as reason:
        return error(str(reason), "leave --compile out, or install what it needs")
    return ok(f"torch.compile works on {device.type}")


def _check_kernel(inputs: Inputs, device: torch.device) -> Iterator[Finding]:
    if not encoder_of(inputs.config.model.mil_name).dilated:
        return
    if device.type == "cpu":
        yield ok("attention runs on PyTorch's fused CPU kernel; flash-attn is for GPUs and not needed")
    elif not inputs.config.compute.use_amp:
        yield warning(
            "without --use_amp attention runs in float32 on PyTorch's memory-efficient kernel, about half as fast",
            "pass --use_amp",
        )
    else:
        found = "installed, but" if importlib.util.find_spec("flash_attn") else "not installed, and"
        yield ok(
            f"attention runs on PyTorch's own flash kernel; the package flash-attn is {found} not needed"
        )

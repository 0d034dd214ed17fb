"""Checkpoints against the parameters of the models: names, shapes, dtype, values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from models.pretrained import compare_states, official_state
from models.state_files import was_written
from utils.diagnosis.inputs import Inputs
from utils.findings import Finding, error, listing, ok, warning
from utils.training import checkpoint
from utils.training.modality_report import ModalityReport


def check_model(inputs: Inputs) -> Iterator[Finding]:
    """Whether the model config builds."""
    try:
        model = inputs.model
    except (OSError, ValueError) as reason:
        yield error(str(reason), "correct --mil_name, --model_config or --eval_weights")
        return
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    yield ok(f"{inputs.mil_name}: {trainable:,} trainable and {frozen:,} frozen parameters")


def check_weights(inputs: Inputs) -> Iterator[Finding]:
    """The slide encoder's official file, and the trained weights that are to be evaluated."""
    try:
        _ = inputs.trained
    except (OSError, ValueError) as reason:
        yield error(str(reason), "pass other weights with --eval_weights")
        return
    backbone = inputs.backbone
    if backbone is None:
        yield ok(f"{inputs.mil_name} has no slide encoder to load")
    elif inputs.config.model.random_backbone:
        yield warning(
            "the slide encoder gets random weights (--random_backbone)",
            "for anything but tests, leave the flag out and pass --backbone_weights",
        )
    else:
        path = inputs.config.model.backbone_weights
        try:
            state = backbone.read_pretrained(path)
        except (OSError, ValueError) as reason:
            yield error(str(reason), "get the official file and pass it with --backbone_weights")
        else:
            yield from compare(backbone.vit, state, backbone.official_name, path)
    tested = {p.case_id for name, p in inputs.patients() if name == "test"}
    for path in inputs.need("weights"):
        if seen := tested & set(checkpoint.load_weights(path).get("run", {}).get("train_cases", ())):
            yield error(
                f"{path} was trained on {len(seen)} patients of {inputs.config.data.test_json}: "
                f"{listing(sorted(seen))}",
                "pass the split files (the fold) it was trained with",
            )
        try:
            content = checkpoint.load_weights(path)
            state = content["model"]
            # The model stands on the structures.
            checkpoint.check_layouts(content, inputs.need("structures"), path)
            checkpoint.check_trainable(inputs.need("model"), state, path)
            yield ok(f"{path} fits {inputs.mil_name}")
            report = ModalityReport.read(path.parent)
            if report is not None and (finding := report.finding(str(path.parent))):
                yield finding
        except (OSError, ValueError) as reason:
            yield error(
                str(reason), "pass --mil_name, --model_config and --pathway_table of the training run"
            )


def compare(module: nn.Module, state: Mapping[str, Tensor], what: str, path: Path) -> Iterator[Finding]:
    """Findings on a checkpoint that should fit ``module`` (which may be on the meta device)."""
    own = official_state(module)
    found = compare_states(own, state)
    right_file = "is it the official file, and the model config that of this encoder?"
    if found.missing:
        yield error(
            f"{path}: {what} misses {len(found.missing)} parameters: {listing(found.missing)}", right_file
        )
    if found.misshapen:
        yield error(
            f"{path}: {len(found.misshapen)} parameters of {what}: {listing(found.misshapen)}", right_file
        )
    if found.unexpected:
        yield warning(
            f"{path}: {len(found.unexpected)} entries that {what} does not have are ignored: "
            f"{listing(found.unexpected)}",
            right_file,
        )
    shared = [name for name in own if name in state]
    dtypes = sorted({str(state[name].dtype).removeprefix("torch.") for name in shared} - {"float32"})
    if dtypes:
        yield warning(
            f"{path}: parameters of {what} are stored as {', '.join(dtypes)} and become float32",
            "use the official file; a rounded one gives slightly other numbers",
        )
    broken = [n for n in shared if state[n].is_floating_point() and not torch.isfinite(state[n]).all()]
    if broken:
        yield error(
            f"{path}: parameters of {what} hold NaN or infinite values: {listing(broken)}",
            "download or copy the file again",
        )
    if found.fits and not (written := was_written({name: state[name] for name in shared})):
        fault = f"{path} holds zeros only in the parameters of {what}: they were never written"
        yield error(fault, "download or copy the file again")
    if found.fits and not broken and written:
        yield ok(f"{what}: {len(shared)} tensors fit ({path})")

"""``bash tests/gpu/accept.sh``: what has to be true and how fast it is on a GPU, numerics first.

Every check is a line of a Markdown table with its figure and ``ok`` or ``FAILED``; the exit status says whether
all passed. ``--dry`` runs the same code at small sizes on the CPU: it shows that the script works, nothing more.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import train_modaltune
from data_utils.cases.case import Case
from models.aggregators import DataSpec, build_aggregator
from models.encoders import slide_encoder
from models.prov_gigapath import dilated_attention, dilated_kernels
from models.prov_gigapath.attention_kernels import KERNELS
from models.prov_gigapath.dilated_parts import plan
from models.prov_gigapath.longnet import PUBLISHED_RATIOS, PUBLISHED_SEGMENTS
from tests.benchmarks import reading
from tests.benchmarks.training_step import MODELS, NUM_GENES, PATCH_SIZE, published_size_pathways
from tests.small_cohort import IN_DIM, MODEL_CONFIG, PATHWAYS, make_small_cohort
from tests.small_runs import TITAN_CONFIG, quick_evaluation
from tests.structures import structures
from utils.devices import pick_device
from utils.files import read_json
from utils.training.precision import Precision
from utils.training.trainer import Trainer

logger = logging.getLogger("accept")

WIDTHS, LENGTHS = (24, 48, 64), (1, 33, 1024)
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
SIZES = (1024, 4096, 10_000, 25_000)
DIFFERENT_LENGTHS = tuple(1000 + 173 * number for number in range(12))
SMALL = {"gigapath": MODEL_CONFIG, "gigapath_flash": MODEL_CONFIG, "titan": TITAN_CONFIG}

Check = tuple[str, str, bool]


@dataclass(frozen=True)
class Place:
    """Where checks run: a GPU at full size, or (``dry``) the CPU at a small one."""

    device: torch.device
    dry: bool

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def error(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """Largest relative error of some tensors, by norm; not a number where any is not finite."""
    errors = [
        (
            (a.detach().cpu().double() - b.detach().cpu().double()).norm() / b.detach().cpu().double().norm()
        ).item()
        for a, b in zip(found, expected, strict=True)
    ]
    return max(errors) if all(e == e for e in errors) else float("nan")


# ---------------------------------------------------------------------------- numerics
def kernels(place: Place) -> Iterator[Check]:
    """Every attention kernel of the table against the formula in float64."""
    for name, kernel in KERNELS.items():
        for dtype, tolerance in TOLERANCE.items():
            if not kernel.takes(place.device, dtype, WIDTHS[0]) or (place.dry and dtype == torch.float16):
                continue
            if kernel.switch:
                torch.nn.attention.activate_flash_attention_impl(kernel.switch)
            for width in WIDTHS:
                for length in LENGTHS[: 2 if place.dry else None]:
                    found, expected = _attention(kernel, place.device, dtype, width, length)
                    worst = error(found, expected)
                    yield (
                        f"kernel {name}, {dtype}, {width} wide, {length} long",
                        f"{worst:.1e}",
                        worst < tolerance,
                    )
            if kernel.switch:
                torch.nn.attention.restore_flash_attention_impl()


def _attention(
    kernel: Any, device: torch.device, dtype: torch.dtype, width: int, length: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (
        torch.randn(2, 4, length, width, generator=generator).to(device, dtype) for _ in range(4)
    )
    results = []
    for chosen, tensors in ((kernel, (q, k, v)), (KERNELS["textbook"], tuple(x.double() for x in (q, k, v)))):
        out, lse = chosen.forward(*tensors)
        # With one key the gradients of q and k are zero: the values' is what can be compared.
        grads = chosen.backward(grad.to(tensors[0].dtype), *tensors, out, lse)
        results.append([out, lse, *(grads if length > 1 else grads[2:])])
    return results[0], results[1]


def copies(place: Place) -> Iterator[Check]:
    """The fused copies of dilated attention against the strided ones."""
    if place.device.type != "cuda" or not dilated_kernels.HAS_TRITON:
        yield "fused copies of dilated attention", "not run: needs a GPU and Triton", place.dry
        return
    for length in (1025, 10_001):
        for dtype in (torch.float32, torch.bfloat16):
            parts = plan(PUBLISHED_SEGMENTS, PUBLISHED_RATIOS, length, 16)
            values = torch.randn(3, length, 3, 16, 48, device=place.device).to(dtype)
            grad = torch.randn(3, length, 16, 48, device=place.device).to(dtype)
            results = []
            for function in (
                dilated_kernels.FusedDilatedAttention,
                dilated_attention.StridedDilatedAttention,
            ):
                qkv = values.clone().requires_grad_()
                out = function.apply(qkv, parts)
                results.append((out, *torch.autograd.grad(out, qkv, grad)))
            worst = error(*results)
            yield f"fused copies, {length} long, {dtype}", f"{worst:.1e}", worst < TOLERANCE[dtype] / 2


def encoders(place: Place) -> Iterator[Check]:
    """Outputs and gradients of both models against the CPU in float32."""
    for encoder in MODELS:
        model = _model(encoder, place.dry).eval()
        case = _case(encoder, 20 if place.dry else 300, place.dry)
        expected = _outputs_and_gradients(model, case, None)
        model.to(place.device)
        moved = case.to(place.device)
        kinds = ((None, 2e-3), (torch.bfloat16, 8e-2))
        if place.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            kinds = ((None, 2e-3), (torch.float16, 2e-2))
        for dtype, tolerance in kinds:
            worst = error(_outputs_and_gradients(model, moved, dtype), expected)
            yield f"{encoder}, {dtype or torch.float32} against the CPU", f"{worst:.1e}", worst < tolerance


def _outputs_and_gradients(model: nn.Module, case: Case, dtype: torch.dtype | None) -> list[torch.Tensor]:
    """Outputs, and all gradients as one vector."""
    model.zero_grad()
    device = case.features.device.type
    with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
        out = model(case)
    out.float().square().sum().backward()
    grads = [p.grad.flatten().float().cpu() for p in model.parameters() if p.grad is not None]
    return [out.float(), torch.cat(grads)]


def _model(encoder: str, small: bool) -> nn.Module:
    torch.manual_seed(0)
    config = SMALL[encoder] if small else read_json(slide_encoder(encoder).config)
    pathways = list(PATHWAYS.values()) if small else published_size_pathways()
    model = build_aggregator(MODELS[encoder], config, DataSpec(structures(pathways)))
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):  # closed gates would hide the injectors
            nn.init.normal_(parameter, std=0.1)
    return model


def _case(encoder: str, patches: int, small: bool) -> Case:
    generator = torch.Generator().manual_seed(patches)
    size, side = PATCH_SIZE[encoder], int(patches**0.5) + 1
    cells = torch.cartesian_prod(torch.arange(side), torch.arange(side))[:patches]
    in_dim = IN_DIM if small else read_json(slide_encoder(encoder).config)["slide_encoder"]["in_dim"]
    features = torch.randn(patches, in_dim, generator=generator)
    genes = torch.randn(NUM_GENES, generator=generator)
    return Case("accept", "", "", features, cells * size, size, inputs={"genes": genes})


# ---------------------------------------------------------------------------- training
def trainings(place: Place) -> Iterator[Check]:
    """Whole runs of a small model: precisions, a scaler, resume, compilation."""
    with tempfile.TemporaryDirectory() as name, quick_evaluation():
        root = Path(name)
        cohort = make_small_cohort(root / "cohort")
        device = place.device.type
        for title, flags in (
            ("float32", {}),
            ("mixed precision", {"use_amp": True}),
            ("mixed precision, checkpointing", {"use_amp": True, "activation_checkpointing": "on"}),
            ("--compile", {"use_amp": True, "compile": True}),
        ):
            if place.dry and "compile" in flags:
                continue
            output, epochs = root / title.replace(" ", "_"), 1 if place.dry else 2
            words = cohort.flags(output, device=device, num_epochs=epochs, **flags)
            yield _run(f"training, {title}", words, output)
        yield _interrupted(cohort, root / "resumed", device)
        yield _scaled(place)


def _run(title: str, flags: list[str], output: Path) -> Check:
    start = time.perf_counter()
    train_modaltune.main(flags)
    return title, f"{time.perf_counter() - start:.1f} s", (output / "results.csv").is_file()


def _interrupted(cohort: Any, output: Path, device: str) -> Check:
    """Stopped before its second epoch and continued; the second call must begin there."""
    train_epoch, epochs = Trainer._train_epoch, []

    def stop(self: Trainer, dataset: Any, epoch: int) -> float:
        if epoch == 1 and 1 not in epochs:
            epochs.append(1)
            raise KeyboardInterrupt
        epochs.append(epoch)
        return train_epoch(self, dataset, epoch)

    Trainer._train_epoch = stop
    flags = cohort.flags(output, device=device, use_amp=True)
    try:
        try:
            train_modaltune.main(flags)
        except KeyboardInterrupt:
            train_modaltune.main(flags)
    finally:
        Trainer._train_epoch = train_epoch
    return "resume", f"epochs begun: {epochs}", epochs == [0, 1, 1] and (output / "results.csv").is_file()


def _scaled(place: Place) -> Check:
    """A float16 step with gradient scaling: finite gradients, and a scale that is halved after infinite ones."""
    if place.device.type != "cuda":
        return "float16 with a scaler", "not run: needs a GPU", place.dry
    model = _model("gigapath", small=True).to(place.device).train()
    precision = Precision(place.device, use_amp=True)
    precision.dtype, precision.scaler = torch.float16, torch.amp.GradScaler("cuda")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    case = _case("gigapath", 20, small=True).to(place.device)
    scales = []
    for factor in (1.0, 1e30):
        with precision.running(model):
            loss = model(case).float().square().sum() * factor
        precision.scaler.scale(loss).backward()
        precision.scaler.step(optimizer)
        precision.scaler.update()
        optimizer.zero_grad()
        scales.append(precision.scaler.get_scale())
    finite = all(p.isfinite().all() for p in model.parameters())
    return "float16 with a scaler", f"scales {scales}", finite and scales[1] < scales[0]


# ---------------------------------------------------------------------------- speed
def speed(place: Place) -> Iterator[Check]:
    """Launches, idle share and different lengths in a row; then the rows of the benchmark."""
    for encoder in MODELS:
        model = _model(encoder, place.dry).to(place.device).train()
        lengths = (12, 13) if place.dry else DIFFERENT_LENGTHS
        yield from _lengths_in_a_row(place, encoder, model, lengths)
        for patches in (12,) if place.dry else (1024, 10_000):
            yield _profile(place, encoder, model, patches)
    tiles = ("demo", 0, 1, 1, (1, 1)) if place.dry else ("gigapath", os.cpu_count() or 1, 1, 4, (6, 4))
    yield "tiles of extraction", str(reading.extraction(*tiles, device=place.device.type)["note"]), True
    if place.dry:
        return
    for encoder in MODELS:
        words = [f"{encoder}/{size}/{kind}/bf16/cuda" for size in SIZES for kind in ("train", "eval")]
        command = [sys.executable, "-m", "tests.benchmarks.run", "--only", *words]
        table = subprocess.run(command, capture_output=True, text=True, check=False)
        yield from (
            (
                f"benchmark {cells[1].strip()}",
                " | ".join(cell.strip() for cell in cells[2:6]),
                "failed" not in line,
            )
            for line in table.stdout.splitlines()
            if len(cells := line.split("|")) > 6 and "/" in cells[1]
        )


def _step(place: Place, model: nn.Module, case: Case) -> Callable[[], None]:
    precision = Precision(place.device, use_amp=True)

    def work() -> None:
        with precision.running(model):
            loss = model(case).float().square().sum()
        loss.backward()
        model.zero_grad()

    return work


def _lengths_in_a_row(
    place: Place, encoder: str, model: nn.Module, lengths: Sequence[int]
) -> Iterator[Check]:
    """A length seen for the first time must not cost much more than a known one: nothing is built for it."""
    cases = [_case(encoder, length, place.dry).to(place.device) for length in lengths]
    _step(place, model, cases[0])()
    seconds: list[list[float]] = []
    for _ in range(2):
        seconds.append([])
        for case in cases[1:]:
            place.sync()
            start = time.perf_counter()
            _step(place, model, case)()
            place.sync()
            seconds[-1].append(time.perf_counter() - start)
    first, again = (sum(times) / len(times) for times in seconds)
    figure = f"{1e3 * first:.0f} ms at first, {1e3 * again:.0f} ms again"
    yield f"{encoder}, {len(lengths)} lengths in a row", figure, place.dry or first < 3 * again


def _profile(place: Place, encoder: str, model: nn.Module, patches: int) -> Check:
    """Launches of a step and the share of its time in which the GPU has nothing to do."""
    work = _step(place, model, _case(encoder, patches, place.dry).to(place.device))
    work()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if place.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    place.sync()
    with torch.profiler.profile(activities=activities) as profile:
        start = time.perf_counter()
        work()
        place.sync()
        wall = time.perf_counter() - start
    events = profile.events()
    launches = sum("LaunchKernel" in event.name for event in events)
    busy = sum(e.device_time_total for e in events if e.device_type == torch.autograd.DeviceType.CUDA) / 1e6
    figure = (
        f"{launches} launches, {1e3 * wall:.0f} ms profiled, GPU idle {100 * max(0.0, 1 - busy / wall):.0f} %"
    )
    return f"{encoder}/{patches}, profile of a step", figure, place.dry or 0 < launches <= 3000


# ---------------------------------------------------------------------------- all of it
SECTIONS: dict[str, tuple[Callable[[Place], Iterator[Check]], ...]] = {
    "numerics": (kernels, copies, encoders),
    "training": (trainings,),
    "speed": (speed,),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sections; returns 1 where a check failed, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dry", action="store_true", help="small sizes on the CPU: whether this script works"
    )
    parser.add_argument("--log", type=Path, default=Path("gpu_acceptance.md"), help="written as checks end")
    parser.add_argument("--only", nargs="+", choices=sorted(SECTIONS), default=list(SECTIONS))
    args = parser.parse_args(argv)
    if not args.dry and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; --dry shows whether this script works")
    place = Place(pick_device("cpu" if args.dry else "cuda"), args.dry)
    failed = 0
    with args.log.open("w", encoding="utf-8") as log:

        def write(line: str) -> None:
            sys.stdout.write(line + "\n")
            log.write(line + "\n")
            for stream in (sys.stdout, log):
                stream.flush()

        name = "CPU, --dry: small sizes, no statement about any GPU"
        if not args.dry:
            name = torch.cuda.get_device_name(place.device)
        write(f"{name}; PyTorch {torch.__version__}\n\n| check | figure | |\n| --- | --- | --- |")
        for section in args.only:
            for check in SECTIONS[section]:
                failed += _report(check, place, write)
        write(f"\n{'all checks passed' if not failed else f'{failed} checks FAILED'}")
    return int(failed > 0)


def _report(check: Callable[[Place], Iterator[Check]], place: Place, write: Callable[[str], None]) -> int:
    """Writes the lines of a group of checks; one that raises has failed, and the next group still runs."""
    failed = 0
    try:
        for title, figure, good in check(place):
            write(f"| {title} | {figure} | {'ok' if good else 'FAILED'} |")
            failed += not good
    except Exception as problem:  # the log has to say what happened, whatever it was
        logger.exception("%s", check.__name__)
        write(f"| {check.__name__} | {type(problem).__name__}: {str(problem).splitlines()[0]} | FAILED |")
        failed += 1
    return failed


if __name__ == "__main__":
    sys.exit(main())

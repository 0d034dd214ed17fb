"""The acceptance script without a GPU: its ``--dry`` mode, and that failures are failures."""

import pytest
import torch

from models.prov_gigapath.attention_kernels import KERNELS, Kernel
from tests.gpu import accept

pytestmark = pytest.mark.usefixtures("quick_runs")


def test_dry(tmp_path, capsys):
    log = tmp_path / "log.md"
    assert accept.main(["--dry", "--log", str(log)]) == 0
    lines = log.read_text(encoding="utf-8").splitlines()
    assert "no statement about any GPU" in lines[0] and lines[-1] == "all checks passed"
    for word in (
        "kernel cpu, torch.bfloat16, 48 wide, 33 long",
        "gigapath, torch.float32",
        "gigapath_flash",
        "titan",
        "tiles of extraction",
        "resume",
    ):
        assert any(word in line for line in lines), word
    assert not any("FAILED" in line for line in lines)
    assert capsys.readouterr().out == log.read_text(encoding="utf-8")


def test_wrong_numbers_and_errors_are_failures(tmp_path, monkeypatch):
    good = KERNELS["cpu"]

    def wrong(q, k, v):
        out, lse = good.forward(q, k, v)
        return 1.1 * out, lse

    monkeypatch.setitem(accept.KERNELS, "cpu", Kernel(wrong, good.backward, good.takes))

    def broken(place):
        yield "first", "1", True
        raise RuntimeError("device-side assert")

    monkeypatch.setitem(accept.SECTIONS, "numerics", (accept.kernels, broken))
    log = tmp_path / "log.md"
    assert accept.main(["--dry", "--log", str(log), "--only", "numerics"]) == 1
    text = log.read_text(encoding="utf-8")
    assert "| kernel cpu, torch.float32, 48 wide, 33 long |" in text and "FAILED |" in text
    assert "| first | 1 | ok |" in text and "RuntimeError: device-side assert | FAILED" in text


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        accept.main([])
    assert "--dry" in capsys.readouterr().err

"""The whole GPU benchmark, run on the CPU with tiny models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import cells
from benchmarks.gpu.models import encoder_cases
from benchmarks.gpu.roofline import work


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    program.main()


@pytest.mark.slow("it runs the whole benchmark on the CPU")
def test_all_cells_are_measured_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "--device", "cpu", "--out", str(tmp_path))
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert document["failed"] == {}
    assert set(document["cells"]) == {key for key, _ in program.all_cells("cpu", tmp_path)}
    for key, figures in document["cells"].items():
        if key.startswith("correct"):
            assert len(figures["differences"]) == 4
            assert max(figures["differences"].values()) <= figures["tolerance"]
    report = (tmp_path / "gpu.md").read_text()
    assert " NO |" not in report
    assert all(runtime in report for runtime in cells.RUNTIMES)


def test_stopped_run_resumes_and_a_failed_cell_does_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def measure(key: str) -> dict[str, float]:
        calls.append(key)
        if key == "decode | 4":
            raise RuntimeError("no memory")
        if key == "decode | 16" and calls.count(key) == 1:
            raise KeyboardInterrupt
        return {"per_second": 1.0}

    keys = [f"decode | {threads}" for threads in (1, 4, 16)]
    monkeypatch.setattr(
        program, "all_cells", lambda *_: [(key, lambda k=key: measure(k)) for key in keys]
    )
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "--device", "cpu", "--out", str(tmp_path))
    assert stopped.value.code == 3
    run(monkeypatch, "--device", "cpu", "--out", str(tmp_path))
    assert calls == [*keys, "decode | 16"]
    document: dict[str, Any] = json.loads((tmp_path / "gpu.json").read_text())
    assert list(document["cells"]) == ["decode | 1", "decode | 16"]
    assert document["failed"] == {"decode | 4": "RuntimeError: no memory"}


def test_run_ends_when_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "--device", "cpu", "--out", str(tmp_path), "--minutes", "0")
    assert stopped.value.code == 3


def test_machine_without_a_gpu_is_an_error_that_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "choose_provider", lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "--out", str(tmp_path))
    assert stopped.value.code not in (0, 3)
    assert "PyTorch finds no GPU; install a build of PyTorch for CUDA" in capsys.readouterr().err


def test_work_of_a_batch_grows_with_its_rows_except_for_the_weights() -> None:
    case = encoder_cases(tiny=True)[0]
    inputs = {name: torch.from_numpy(array) for name, array in case.batch(1).items()}
    one, four = (work(case.module, inputs, rows) for rows in (1, 4))
    weights = 2 * sum(value.numel() for value in case.module.parameters())
    assert (four["flops"], four["copied"]) == (4 * one["flops"], 4 * 4 * 3 * 32 * 32)
    assert four["bytes"] - weights == 4 * (one["bytes"] - weights)

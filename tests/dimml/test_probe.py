"""The provider of a service or a job, tested in a separate process."""

from __future__ import annotations

from pathlib import Path

import pytest

from dimml import probe
from dimml.errors import ProviderError
from dimml.probe import settle_provider
from dimml.runtime.providers import GpuOptions


@pytest.fixture
def cuda_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the machine appear to have CUDA."""
    monkeypatch.setattr(probe, "unavailable_reason", lambda _: None)
    monkeypatch.setattr(probe, "choose_provider", lambda p: "cpu" if p == "cpu" else "cuda")
    probe._run_problem.cache_clear()


def test_cpu_is_not_tested(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_run_problem", lambda *_: pytest.fail("tested"))
    assert settle_provider(tiny_bundle, "cpu") == "cpu"


def test_missing_library_is_printed_without_a_test(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "unavailable_reason", lambda _: "the driver is missing")
    monkeypatch.setattr(probe, "_run_problem", lambda *_: pytest.fail("tested"))
    assert settle_provider(tiny_bundle, "auto") == "cpu"
    assert capsys.readouterr().err == "provider cpu: the driver is missing\n"


@pytest.mark.usefixtures("cuda_available")
def test_failing_gpu_is_an_error_for_cuda_and_the_cpu_for_auto(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A bundle that does not exist fails on every GPU.
    with pytest.raises(ProviderError, match="none is not a bundle"):
        settle_provider(tmp_path / "none", "cuda", GpuOptions(), 4)
    assert settle_provider(tmp_path / "none", "auto", GpuOptions(), 4) == "cpu"
    assert capsys.readouterr().err.startswith("provider cpu: ")


def test_working_provider_is_chosen(
    tiny_bundle: Path, cuda_available: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The new process uses the CPU instead of a GPU.
    monkeypatch.setattr(probe, "choose_provider", lambda _: "cpu")
    assert probe._run_problem(tiny_bundle, "cpu", GpuOptions(), 2) is None
    monkeypatch.setattr(probe, "choose_provider", lambda _: "cuda")
    monkeypatch.setattr(probe, "_run_problem", lambda *_: None)
    assert settle_provider(tiny_bundle, "auto") == "cuda"

"""Which provider a service or a job settles on, tried in another process."""

from __future__ import annotations

from pathlib import Path

import pytest

from dimml import probe
from dimml.errors import ProviderError
from dimml.probe import settle_provider
from dimml.runtime.providers import GpuOptions


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that seems to have CUDA."""
    monkeypatch.setattr(probe, "unavailable_reason", lambda _: None)
    monkeypatch.setattr(probe, "choose_provider", lambda p: "cpu" if p == "cpu" else "cuda")
    probe._problem.cache_clear()


def test_the_cpu_is_not_tried(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_problem", lambda *_: pytest.fail("tried"))
    assert settle_provider(tiny_bundle, "cpu") == "cpu"


def test_what_is_missing_is_said_once_and_nothing_is_tried(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "unavailable_reason", lambda _: "the driver is missing")
    monkeypatch.setattr(probe, "_problem", lambda *_: pytest.fail("tried"))
    assert settle_provider(tiny_bundle, "auto") == "cpu"
    assert capsys.readouterr().err == "provider cpu: the driver is missing\n"


@pytest.mark.usefixtures("complete")
def test_a_gpu_that_does_not_compute_is_refused_or_with_auto_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # No GPU computes a bundle that is not there.
    with pytest.raises(ProviderError, match="none is not a bundle"):
        settle_provider(tmp_path / "none", "cuda", GpuOptions(), 4)
    assert settle_provider(tmp_path / "none", "auto", GpuOptions(), 4) == "cpu"
    assert capsys.readouterr().err.startswith("provider cpu: ")


def test_what_computes_there_is_settled_on(
    tiny_bundle: Path, complete: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The process computes on the CPU in the place of a GPU.
    monkeypatch.setattr(probe, "choose_provider", lambda _: "cpu")
    assert probe._problem(tiny_bundle, "cpu", GpuOptions(), 2) is None
    monkeypatch.setattr(probe, "choose_provider", lambda _: "cuda")
    monkeypatch.setattr(probe, "_problem", lambda *_: None)
    assert settle_provider(tiny_bundle, "auto") == "cuda"

from __future__ import annotations

import ctypes
import logging
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from dimml.errors import ProviderError, UsageError
from dimml.runtime.providers import CPU, CUDA, TENSORRT, choose_provider


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | int]:
    """A machine with CUDA. What a test adds is missing: a library, or "cuInit" with its answer."""
    missing: dict[str, str | int] = {}

    def load(name: str, mode: int = 0) -> SimpleNamespace:
        for library, message in missing.items():
            if library in name:
                raise OSError(message)
        return SimpleNamespace(
            cuInit=lambda flags: missing.get("cuInit", 0),
            cuDriverGetVersion=lambda to: write(to, missing.get("driver", 99_000)),
        )

    def write(to: Any, value: int | str) -> None:
        to._obj.value = value

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    return missing


NO_FILE = "{}: cannot open shared object file: No such file or directory"
NO_DRIVER = {"libcuda.so.1": NO_FILE.format("libcuda.so.1")}
NO_CUBLAS = {"providers_cuda": NO_FILE.format("libcublasLt.so.13")}
NO_CUDNN = {"libcudnn": NO_FILE.format("libcudnn.so.9")}
PROBLEMS = [
    (NO_DRIVER, "the NVIDIA driver is missing (libcuda.so.1 could not be loaded)"),
    (NO_CUBLAS, "the library libcublasLt.so.13 could not be loaded"),
    (NO_CUDNN, "the library libcudnn.so.9 could not be loaded"),
    (NO_DRIVER | NO_CUDNN, "the NVIDIA driver is missing"),
    (NO_DRIVER | NO_CUDNN, "the library libcudnn.so.9 could not be loaded"),
    ({"cuInit": 100}, "the NVIDIA driver finds no usable GPU (cuInit answers 100)"),
    ({"driver": 12_040}, "the NVIDIA driver is too old (it runs CUDA 12, this onnxruntime needs "),
]


class TestChooseProvider:
    @pytest.mark.parametrize(
        ("providers", "chosen"),
        [("auto", "cuda"), ("cuda", "cuda"), ("tensorrt", "tensorrt"), ("cpu", "cpu")],
    )
    def test_with_cuda(self, machine: dict[str, str | int], providers: str, chosen: str) -> None:
        assert choose_provider(providers) == chosen

    @pytest.mark.parametrize(("missing", "says"), PROBLEMS)
    def test_cuda_that_cannot_be_had_is_refused_with_what_to_do(
        self, machine: dict[str, str | int], missing: dict[str, str | int], says: str
    ) -> None:
        machine.update(missing)
        with pytest.raises(ProviderError) as caught:
            choose_provider("cuda")
        assert says in caught.value.message
        for way_out in ("NVIDIA driver", "pip install -e '.[cuda]'", "providers=cpu"):
            assert way_out in caught.value.message

    @pytest.mark.parametrize(("missing", "says"), PROBLEMS)
    def test_auto_is_then_the_cpu_and_says_so_once(
        self,
        machine: dict[str, str | int],
        missing: dict[str, str | int],
        says: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        machine.update(missing)
        with caplog.at_level(logging.INFO, "dimml"):
            assert choose_provider("auto") == "cpu"
        [message] = caplog.messages
        assert message.startswith("provider cpu: ")
        assert says in message

    def test_the_cpu_is_chosen_without_a_look_for_cuda(
        self, machine: dict[str, str | int], caplog: pytest.LogCaptureFixture
    ) -> None:
        machine.update(NO_DRIVER)
        with caplog.at_level(logging.INFO, "dimml"):
            assert choose_provider("cpu") == "cpu"
        assert caplog.messages == []

    def test_tensorrt_names_its_own_library_and_its_extra(
        self, machine: dict[str, str | int]
    ) -> None:
        machine["providers_tensorrt"] = NO_FILE.format("libnvinfer.so.10")
        assert choose_provider("cuda") == "cuda"
        with pytest.raises(ProviderError) as caught:
            choose_provider("tensorrt")
        assert "the library libnvinfer.so.10 could not be loaded" in caught.value.message
        for way_out in ("pip install -e '.[cuda,tensorrt]'", "providers=cuda or cpu"):
            assert way_out in caught.value.message

    def test_an_onnxruntime_without_cuda_is_named(
        self, machine: dict[str, str | int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
        with pytest.raises(ProviderError, match="it is not onnxruntime-gpu"):
            choose_provider("cuda")

    def test_nothing_is_printed(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        choose_provider("auto")
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("providers", ["", "CPU", "gpu", "CUDAExecutionProvider"])
    def test_an_unknown_one_is_refused_with_those_known(self, providers: str) -> None:
        with pytest.raises(UsageError, match="known: auto, cuda, tensorrt, cpu"):
            choose_provider(providers)


@pytest.mark.gpu
def test_auto_is_cuda_on_a_gpu_machine() -> None:
    assert choose_provider("auto") == "cuda"

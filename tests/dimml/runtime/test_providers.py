from __future__ import annotations

import ctypes
import logging
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from dimml.errors import ProviderError, UsageError
from dimml.runtime.providers import (
    CPU,
    CUDA,
    TENSORRT,
    GpuOptions,
    choose_provider,
    compute_error,
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | int]:
    """Simulate a machine with CUDA, and return the faults that a test can add.

    A key is part of the name of a missing library, "cuInit" for a status or "driver" for a version.
    """
    faults: dict[str, str | int] = {}

    def load(name: str, mode: int = 0) -> SimpleNamespace:
        for library, message in faults.items():
            if library in name:
                raise OSError(message)
        return SimpleNamespace(
            cuInit=lambda flags: faults.get("cuInit", 0),
            cuDriverGetVersion=lambda to: write(to, faults.get("driver", 99_000)),
        )

    def write(to: Any, value: int | str) -> None:
        to._obj.value = value

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    return faults


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
    ({"cuInit": 100}, "the NVIDIA driver finds no usable GPU (cuInit returns 100)"),
    (
        {"driver": 12_040},
        "the NVIDIA driver is too old (it supports CUDA 12, this onnxruntime needs ",
    ),
]


class TestChooseProvider:
    @pytest.mark.parametrize(
        ("providers", "chosen"),
        [("auto", "cuda"), ("cuda", "cuda"), ("tensorrt", "tensorrt"), ("cpu", "cpu")],
    )
    def test_available_provider_is_chosen(
        self, machine: dict[str, str | int], providers: str, chosen: str
    ) -> None:
        assert choose_provider(providers) == chosen

    @pytest.mark.parametrize(("faults", "message"), PROBLEMS)
    def test_unavailable_cuda_is_an_error_with_a_remedy(
        self, machine: dict[str, str | int], faults: dict[str, str | int], message: str
    ) -> None:
        machine.update(faults)
        with pytest.raises(ProviderError) as caught:
            choose_provider("cuda")
        assert message in caught.value.message
        for remedy in ("NVIDIA driver", "pip install -e '.[cuda]'", "providers=cpu"):
            assert remedy in caught.value.message

    @pytest.mark.parametrize(("faults", "message"), PROBLEMS)
    def test_auto_falls_back_to_the_cpu_and_logs_once(
        self,
        machine: dict[str, str | int],
        faults: dict[str, str | int],
        message: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        machine.update(faults)
        with caplog.at_level(logging.INFO, "dimml"):
            assert choose_provider("auto") == "cpu"
        [line] = caplog.messages
        assert line.startswith("provider cpu: ")
        assert message in line

    def test_cpu_is_chosen_without_checking_cuda(
        self, machine: dict[str, str | int], caplog: pytest.LogCaptureFixture
    ) -> None:
        machine.update(NO_DRIVER)
        with caplog.at_level(logging.INFO, "dimml"):
            assert choose_provider("cpu") == "cpu"
        assert caplog.messages == []

    def test_tensorrt_error_names_its_library_and_extra(
        self, machine: dict[str, str | int]
    ) -> None:
        machine["providers_tensorrt"] = NO_FILE.format("libnvinfer.so.10")
        assert choose_provider("cuda") == "cuda"
        with pytest.raises(ProviderError) as caught:
            choose_provider("tensorrt")
        assert "the library libnvinfer.so.10 could not be loaded" in caught.value.message
        for remedy in ("pip install -e '.[cuda,tensorrt]'", "providers=cuda or cpu"):
            assert remedy in caught.value.message

    def test_onnxruntime_without_cuda_is_an_error(
        self, machine: dict[str, str | int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
        with pytest.raises(ProviderError, match="it is not onnxruntime-gpu"):
            choose_provider("cuda")

    def test_choosing_a_provider_prints_nothing(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        choose_provider("auto")
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("providers", ["", "CPU", "gpu", "CUDAExecutionProvider"])
    def test_unknown_provider_is_rejected(self, providers: str) -> None:
        with pytest.raises(UsageError, match="known: auto, cuda, tensorrt, cpu"):
            choose_provider(providers)


@pytest.mark.parametrize(
    ("gpu", "remedies"),
    [
        (GpuOptions(), ["nvidia-smi"]),
        (GpuOptions(memory=2**20), ["raise gpu_memory (1048576 bytes per encoder)"]),
        (GpuOptions(cuda_graphs=True), ["nvidia-smi", "turn cuda_graphs off"]),
    ],
)
def test_error_of_a_gpu_that_does_not_compute_names_the_options_in_use(
    gpu: GpuOptions, remedies: list[str]
) -> None:
    # The word "graph" alone says nothing about CUDA graphs.
    message = compute_error("cuda", gpu, "cannot load audio.onnx: graph failed").message
    assert all(remedy in message for remedy in (*remedies, "use providers=cpu"))
    assert ("cuda_graphs" in message) == gpu.cuda_graphs


@pytest.mark.gpu
def test_auto_is_cuda_with_a_gpu() -> None:
    assert choose_provider("auto") == "cuda"

"""The report of the GPU benchmark."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.cells import EAGER, GRAPHS, ORT
from benchmarks.gpu.report import markdown
from dimml.machine import describe_machine


def document() -> dict[str, Any]:
    rates = {"fp32": 1e12, "fp16": 4e12, "memory": 1e12, "pinned": 2e10, "pageable": 1e10}
    return {
        "machine": {**describe_machine(), "gpu": "A card"},
        "note": "A note.",
        "cells": {
            "correct | net | fp32": {
                "differences": {"plain": 1e-6, "graphs": 0.5, "graphs, threads": float("nan")},
                "tolerance": 1e-3,
            },
            "rates": rates,
            "speed | net | 8 | work": {"flops": 4e9, "bytes": 5e8, "copied": 6e7},
            f"speed | net | 8 | {EAGER}": {"device": 3.0, "copies": 4.0},
            f"speed | net | 8 | {ORT}": {"device": 1.5, "copies": 2.5},
            "decode | 1": {"per_second": 100.0},
            "decode | 16": {"per_second": 1500.0},
            "answers | 64": {
                "per_second": 1200.0,
                "share_of_graphs": 0.25,
                "gpu_busy": 0.2,
                "threads": 16,
            },
        },
        "failed": {f"speed | net | 8 | {GRAPHS}": "RuntimeError: full\n\nmemory\n"},
    }


def test_wrong_features_are_not_accepted() -> None:
    lines = [line for line in markdown(document()).splitlines() if line.startswith("| net | fp32")]
    assert [line.split(" | ")[-1] for line in lines] == ["yes |", "NO |", "NO |"]


def test_speed_with_and_without_copies_is_beside_the_largest_limit() -> None:
    [line] = [line for line in markdown(document()).splitlines() if line.startswith("| net | 8")]
    assert line == "| net | 8 | 3.000 (4.000) |  | 1.500 (2.500) |  |  | 3.000 (pcie) |"


def test_decoding_answers_and_the_load_of_the_gpu_are_reported() -> None:
    report = markdown(document())
    assert "per second: 100 with 1, 1,500 with 16." in report
    assert (
        "1,200 samples/s. The graphs take 25% of the time, and the GPU is busy for 20%." in report
    )


def test_note_and_failures_are_reported() -> None:
    report = markdown(document())
    assert " A note.\n" in report
    assert report.endswith(f"speed | net | 8 | {GRAPHS}: RuntimeError: full memory\n")

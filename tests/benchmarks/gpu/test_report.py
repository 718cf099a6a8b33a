"""The report of the GPU benchmark."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.report import markdown
from benchmarks.gpu.runtimes import BOUND, COMPILED, EAGER, GRAPHS, PLAIN
from dimml.machine import describe_machine


def document() -> dict[str, Any]:
    ms = {EAGER: 3.0, COMPILED: 2.0, PLAIN: 2.5, BOUND: 2.0, GRAPHS: 1.5}
    failed = {name: ms[name] for name in (EAGER, COMPILED, PLAIN)}
    return {
        "machine": {**describe_machine(), "gpu": "A card"},
        "rates": {"fp32": 1e12, "tf32": 2e12, "fp16": 4e12, "bytes": 1e12},
        "note": "A note.",
        "encoders": {
            "net | fp16 | 8": {"least_ms": 0.3, "ms": ms},
            "net | fp32 | 64": {"least_ms": 0.3, "ms": failed},
            "net | fp32 | 8": {"least_ms": 0.3, "ms": ms},
        },
        "whole": {
            "ms": {"1": {GRAPHS: 5.0, EAGER: 1.0}, "8": {GRAPHS: 10.0, EAGER: 1.0}},
            "host_ms_per_sample": {"decode": 3.0, "preprocess": 2.0},
        },
        "failed": {"net | fp32 | 64 | one": "RuntimeError: full\n\nmemory\n"},
    }


def test_cells_are_in_order_and_a_failed_one_has_no_ratio() -> None:
    lines = [line for line in markdown(document()).splitlines() if line.startswith("| net")]
    assert [line.split(" | ")[1:3] for line in lines] == [
        ["fp32", "8"],
        ["fp32", "64"],
        ["fp16", "8"],
    ]
    assert lines[0].endswith("| 1.500 | 2.00 | 1.33 | 20% |")
    assert lines[1].endswith("| failed | failed |  |  |  |")


def test_cores_of_the_host_are_those_that_dimml_keeps_busy() -> None:
    assert "At dimml's 800 samples/s, a GPU needs 4.0 cores." in markdown(document())


def test_note_and_failures_are_reported() -> None:
    report = markdown(document())
    assert " A note.\n" in report
    assert report.endswith("net | fp32 | 64 | one: RuntimeError: full memory\n")

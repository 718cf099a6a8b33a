"""Check dimml's runtime on a GPU against the CPU, and compare its speed with PyTorch's.

Run `python -m benchmarks.gpu --minutes 10 --out DIR`; it needs no data and no network. `gpu.json`
is written to the folder after every measurement, and `gpu.md` at the end. A run that was stopped,
or whose time was over, continues with the same command. PyTorch, transformers, onnxscript and
onnxruntime-gpu suffice, except for decoding and for the answers: what fails is reported.

`--device cpu` runs everything on the processor with tiny models: a test of the program, not a
measurement.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import cells, roofline
from benchmarks.gpu.models import EncoderCase, encoder_cases
from benchmarks.gpu.report import markdown
from benchmarks.options import absolute_path, benchmark_parser
from benchmarks.results import write_result
from dimml.errors import ProviderError
from dimml.machine import SOURCE_ROOT, available_cores, describe_machine
from dimml.progress import print_status
from dimml.runtime.providers import choose_provider

Cell = tuple[str, Callable[[], Any]]


def main() -> None:
    """Measure what the result file lacks, and write the report."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--minutes", type=float, default=10.0, help="exit with 3 after this time")
    parser.add_argument(
        "--out", type=absolute_path, default=SOURCE_ROOT / "runs" / "gpu", help="folder of results"
    )
    parser.add_argument("--note", help="a sentence about the installation, for the report")
    options = parser.parse_args()
    try:
        if options.device == "cuda":
            choose_provider("cuda")
            if not torch.cuda.is_available():
                raise ProviderError("PyTorch finds no GPU; install a build of PyTorch for CUDA")
        finished = _measure(options)
    except ProviderError as error:
        print_status(f"error: {error}; use --device cpu to test the program")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        finished = False
    if not finished:
        print_status("stopped; run the same command to resume")
        raise SystemExit(3)


def _measure(options: argparse.Namespace) -> bool:
    """Measure one cell after the other, and return whether all are measured."""
    deadline = time.monotonic() + 60 * options.minutes
    path = options.out / "gpu.json"
    document: dict[str, Any] = {
        "machine": {**describe_machine(), "gpu": _card(options.device)},
        "cells": {},
        "failed": {},
        **(json.loads(path.read_text()) if path.exists() else {}),
    }
    if options.note:
        document["note"] = options.note
    # The exporter logs and warns about each step.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as folder:
        for key, measure in all_cells(options.device, Path(folder)):
            if key in document["cells"] or key in document["failed"]:
                continue
            if time.monotonic() > deadline:
                return False
            print_status(key)
            try:
                document["cells"][key] = measure()
            except Exception as error:
                # The failure of one cell must not lose the figures of the others.
                document["failed"][key] = f"{type(error).__name__}: {error}"[:500]
            torch.cuda.empty_cache()
            write_result("gpu", document, folder=options.out)
    write_result("gpu", document, markdown, options.out)
    sys.stdout.write(markdown(document))
    return True


def all_cells(device: Any, folder: Path) -> Iterator[Cell]:
    """Yield the name and the function of each measurement, in the order of their importance."""
    tiny = device == "cpu"
    seconds, batches = (0.01, (1, 2)) if tiny else (0.5, (1, 64, 256))
    cases = encoder_cases(tiny)
    for case in cases:
        for precision in roofline.TYPES:
            check = partial(cells.correctness, case, folder, device, precision)
            yield f"correct | {case.name} | {precision}", check
    yield "rates", partial(roofline.rates, device, seconds)
    for case in cases:
        for rows in batches:
            key = f"speed | {case.name} | {rows}"
            yield f"{key} | work", partial(_work, case, rows)
            yield f"{key} | {cells.EAGER}", partial(cells.torch_ms, case, rows, device, seconds)
            for name in (cells.ORT, cells.NHWC, cells.GRAPHS):
                timed = partial(cells.onnxruntime_ms, case, folder, rows, device, seconds, name)
                yield f"{key} | {name}", timed
    for threads in (1, 4, 16):
        yield f"decode | {threads}", partial(cells.decoding, threads, 4 * seconds)
    rows, threads = (2, 2) if tiny else (64, available_cores())
    answers = partial(cells.bytes_to_answers, folder, device, rows, threads, 10 * seconds)
    yield f"answers | {rows}", answers
    # A compilation takes up to a minute, so these are last.
    for case in cases:
        for rows in batches[:2]:
            compiled = partial(cells.torch_ms, case, rows, device, seconds, compiled=True)
            yield f"speed | {case.name} | {rows} | {cells.COMPILED}", compiled


def _work(case: EncoderCase, rows: int) -> dict[str, int]:
    inputs = {name: torch.from_numpy(array) for name, array in case.batch(1).items()}
    return roofline.work(case.module, inputs, rows)


def _card(device: str) -> str | None:
    """Return the name, memory, driver and power limit of the GPU."""
    if device == "cpu":
        return None
    query = "name,memory.total,driver_version,power.limit"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    with suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip()
    return torch.cuda.get_device_name()


if __name__ == "__main__":
    main()

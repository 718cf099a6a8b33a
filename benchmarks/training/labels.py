"""The whole chain with 10 and with 10,000 labels: seconds and peak memory of each command.

Run `python -m benchmarks.training.labels`; writes `benchmarks/results/labels.json`. Both data sets
have as many rows, pictures and words of the same sizes, so only the number of labels differs. With
10,000 labels, each has two training rows, and some have a row for validation and for the test.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pyarrow.parquet as pq

from benchmarks.http.load import multipart
from benchmarks.http.servers import OURS, Server, running
from benchmarks.options import benchmark_parser
from benchmarks.results import write_result
from dimml.machine import SOURCE_ROOT
from dimml.progress import print_status
from train.datasets.output import MANIFEST, new_data_set, write_manifest

LABELS = (10, 10_000)
ROWS = {"train": 20_000, "validation": 2_000, "test": 2_000}
SIDE = 16
"""Pixels of a picture's side."""
REQUESTS = 20
RECIPE = """
name: labels
data: {data}
feature_dim: 64
modalities:
  image: {{kind: image, preprocessing: {{size: [16, 16]}}}}
  text: {{kind: text, preprocessing: {{max_length: 16}}}}
training: {{epochs: 1, warm_up: 0, batch_size: 256, logger: none}}
"""


def write_data(out: Path, labels: int, rows: dict[str, int]) -> Path:
    """Write pictures and words that tell the label, with noise, and return the table.

    Args:
        out: The folder to write.
        labels: K; each has a row in every split that has as many rows.
        rows: Split to its rows.
    """
    random = np.random.default_rng(0)
    colours = random.integers(0, 200, (labels, 4, 4, 3), np.uint8)
    table = []
    with new_data_set(out, ["image"]) as folder:
        for split, count in rows.items():
            for number in range(count):
                label = number % labels
                name = f"image/{split}-{number}.png"
                pixels = colours[label].repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
                noise = random.integers(0, 50, pixels.shape, np.uint8)
                PIL.Image.fromarray(pixels + noise).save(folder / name)
                row = {"split": split, "label": f"label {label:05}", "image": name}
                table.append({**row, "text": f"thing {label} of {random.integers(100)}"})
        write_manifest(folder, ("split", "label", "image", "text"), table)
    return out / MANIFEST


def run_command(*arguments: object) -> tuple[dict[str, float], str]:
    """Run a command of dimml; return its seconds and its peak of memory, and what it printed."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dimml", *map(str, arguments)], cwd=SOURCE_ROOT, stdout=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}: dimml {arguments[0]}")
        output.seek(0)
        printed = output.read()
    kibibytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    figures = {
        "seconds": round(seconds, 1),
        "peak_mib": round(kibibytes / 1024),
        "printed_kib": round(len(printed.encode()) / 1024, 1),
    }
    print_status(f"{arguments[0]}: {figures}")
    return figures, printed


def measure(folder: Path, labels: int, rows: dict[str, int]) -> dict[str, Any]:
    """Run the chain in a folder, and return the figures of each step."""
    table = write_data(folder / "data", labels, rows)
    unseen = table.with_name("test.parquet")
    pq.write_table(pq.read_table(table, filters=[("split", "=", "test")]), unseen)
    recipe, run, bundle = folder / "recipe.yaml", folder / "run", folder / "bundle"
    recipe.write_text(RECIPE.format(data=table))
    sample = ["--image", folder / "data" / "image" / "test-0.png", "--text", "thing 0"]
    commands: dict[str, tuple[object, ...]] = {
        "check": ("check", recipe),
        "train": ("train", recipe, "--out", run),
        "export": ("export", run, bundle),
        "inspect": ("inspect", bundle),
        "evaluate": ("evaluate", bundle, table),
        "predict": ("predict", bundle, *sample),
        "predict --json": ("predict", bundle, *sample, "--json"),
        "score": ("score", bundle, unseen, folder / "scores"),
        "score --probabilities": (
            *("score", bundle, unseen, folder / "probabilities"),
            "--probabilities",
        ),
    }
    figures: dict[str, Any] = {}
    for name, arguments in commands.items():
        figures[name], _ = run_command(*arguments)
    files = {path.name: path.stat().st_size for path in bundle.iterdir()}
    figures["bundle"] = {name: round(size / 1024, 1) for name, size in sorted(files.items())}
    figures["serve"] = measure_server(bundle, folder)
    return figures


def measure_server(bundle: Path, folder: Path) -> dict[str, Any]:
    """Return the seconds and the size of each answer of the service, and its memory."""
    server = Server(OURS, ("-m", "dimml", "serve", str(bundle), "--port", "{port}"))
    figures: dict[str, Any] = {}
    body = multipart({"text": "thing 1"}, {"text": "text"})
    with running(server, body, folder) as started:
        base = started.url.removesuffix("/predict")
        with httpx.Client(timeout=60) as client:
            for path in ("/", "/bundle", "/openapi.json", "/predict", "/predict?explain=1"):
                seconds, answer = [], b""
                for _ in range(REQUESTS):
                    began = time.perf_counter()
                    if path.startswith("/predict"):
                        response = client.post(base + path, json={"text": "thing 1"})
                    else:
                        response = client.get(base + path, headers={"Accept": "text/html"})
                    answer = response.raise_for_status().content
                    seconds.append(time.perf_counter() - began)
                figures[path] = {
                    "milliseconds": round(1000 * sorted(seconds)[len(seconds) // 2], 1),
                    "kib": round(len(answer) / 1024, 1),
                }
                print_status(f"{path}: {figures[path]}")
        figures["pss_mib"] = round(started.memory_mib()["pss"])
    return figures


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--labels", type=int, action="append", help="only this number of labels")
    options: argparse.Namespace = parser.parse_args()
    figures = {}
    for labels in options.labels or LABELS:
        with tempfile.TemporaryDirectory() as folder:
            figures[str(labels)] = measure(Path(folder), labels, ROWS)
    if options.labels:
        print_status(json.dumps(figures, indent=2))
        return
    write_result("labels", {"rows": ROWS, "labels": figures})


if __name__ == "__main__":
    main()

"""Measure the encoding of frozen models: rows/s beside bare loops, and memory over rows.

Run `python -m benchmarks.pretrained.caching`; writes `benchmarks/results/caching.{json,md}`. The
models have their true sizes and random weights. dimml reads, decodes, preprocesses, encodes and
stores every row; the bare loops run the same backbone on batches of 32 that are already
preprocessed and in memory, once in PyTorch and (on a CPU) once in onnxruntime. They take turns.
"""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import soundfile
import torch
from torch import Tensor, nn

from benchmarks.options import benchmark_parser
from benchmarks.pretrained.models import CASES, write_model
from benchmarks.results import Spread, machine_line, write_result
from dimml.machine import available_cores
from dimml.modalities import KINDS, Kind
from dimml.nn.encoders import join_encoder
from dimml.progress import print_status
from dimml.runtime.session import Graph
from dimml.table import Row
from export.onnx import export_encoder
from train.data.cache import cached_split
from train.data.features import BATCH_SIZE, FeatureStore, FrozenEncoder
from train.markdown import table
from train.pretrained import PretrainedModel, read_model
from train.recipe import ModalityConfig

MODELS = ("efficientnet-b0", "clip-vit-b32", "whisper-base", "minilm-l6")
SECONDS = 2.0
PHOTO = (640, 480)
WORDS = (5, 40)


def make_values(kind: str, count: int, seed: int) -> list[Any]:
    """Return JPEG photos of 640 x 480, WAV recordings of 2 seconds, or texts of 5 to 40 words."""
    random = np.random.default_rng(seed)
    values: list[Any] = []
    for _ in range(count):
        file = io.BytesIO()
        if kind == "image":
            small = random.integers(0, 256, (24, 32, 3), np.uint8)
            PIL.Image.fromarray(small).resize(PHOTO).save(file, "JPEG")
        elif kind == "audio":
            noise = 0.1 * random.standard_normal(int(16_000 * SECONDS))
            soundfile.write(file, noise, 16_000, format="WAV")
        else:
            words = random.integers(0, 7_000, random.integers(*WORDS))
            values.append(" ".join(f"w{number}" for number in words))
            continue
        values.append(file.getvalue())
    return values


def read_case(name: str, folder: Path) -> tuple[PretrainedModel, Kind]:
    """Write and read a model, and return it with its kind."""
    kind = CASES[name].kind
    path = folder / name
    if not path.exists():
        write_model(name, path)
    preprocessing = {"seconds": SECONDS} if kind == "audio" else {}
    modality = ModalityConfig(
        kind=kind, preprocessing=preprocessing, encoder={"pretrained": str(path)}
    )
    model = read_model(kind, modality)
    return model, KINDS[kind](kind, model.preprocessing, model.assets)


def encode_rows(model: PretrainedModel, kind: Kind, values: Sequence[Any], folder: Path) -> float:
    """Encode rows into an empty store as training does, and return the seconds."""
    rows = [Row(str(n), "train", "x", {kind.name: value}) for n, value in enumerate(values)]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        encoder = FrozenEncoder(kind, model, FeatureStore(Path(scratch) / "features"))
        # Loading the weights takes the same time for any number of rows.
        encoder.warm()
        started = time.perf_counter()
        cached_split(
            rows, {kind.name: kind}, ["x"], "train", Path(scratch), "", {kind.name: encoder}
        )
        return time.perf_counter() - started


def make_loops(
    model: PretrainedModel, kind: Kind, values: Sequence[Any], folder: Path
) -> dict[str, Callable[[], Any]]:
    """Return the bare loops over preprocessed batches in memory."""
    items = sorted(
        (kind.preprocess(kind.decode(value)) for value in values),
        key=lambda item: item[kind.input_names[0]].size,
    )
    batches = [
        kind.collate(items[start : start + BATCH_SIZE])
        for start in range(0, len(items), BATCH_SIZE)
    ]
    backbone = model.load().eval()
    encoder = join_encoder(kind, backbone, nn.Identity())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loops: dict[str, Callable[[], Any]] = {}
    if device == "cpu":
        export_encoder(encoder, kind, folder / "bare.onnx")
        graph = Graph(folder / "bare.onnx", "cpu", threads=available_cores())
        loops["onnxruntime"] = lambda: [graph.run(batch) for batch in batches]
    layout: Any = encoder.to
    if model.settings.kind == "image":
        layout(memory_format=torch.channels_last)
    encoder.to(device)
    tensors = [{k: torch.from_numpy(v) for k, v in batch.items()} for batch in batches]

    @torch.inference_mode()
    def run_torch() -> list[Tensor]:
        return [encoder(**{k: v.to(device) for k, v in batch.items()}).cpu() for batch in tensors]

    return {"torch": run_torch, **loops}


def measure(name: str, count: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Return rows/s of dimml and of the bare loops, in turn."""
    model, kind = read_case(name, folder)
    values = make_values(CASES[name].kind, count, seed=0)
    loops = make_loops(model, kind, values[:count], folder)
    for run in loops.values():
        run()
    seconds: dict[str, list[float]] = {"dimml": [], **{loop: [] for loop in loops}}
    for number in range(rounds):
        print_status(f"{name}: round {number + 1} of {rounds}")
        seconds["dimml"].append(encode_rows(model, kind, values, folder))
        for loop, run in loops.items():
            started = time.perf_counter()
            run()
            seconds[loop].append(time.perf_counter() - started)
    return {
        "like": CASES[name].like,
        "rows": count,
        "rows_per_second": {k: [count / s for s in v] for k, v in seconds.items()},
        "ratio": [t / d for t, d in zip(seconds["torch"], seconds["dimml"], strict=True)],
    }


def peak_memory_mib(name: str, count: int, folder: Path) -> float:
    """Return the peak memory of a process that encodes this many rows."""
    command = [sys.executable, "-m", "benchmarks.pretrained.caching", "--memory", name, str(count)]
    done = subprocess.run(
        [*command, "--folder", str(folder)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def report(document: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    rows = []
    for name, case in document["models"].items():
        speed = {k: Spread.of(v) for k, v in case["rows_per_second"].items()}
        rows.append(
            [
                name,
                case["like"],
                f"{speed['dimml']:.1f}",
                f"{speed['torch']:.1f}",
                f"{speed['onnxruntime']:.1f}" if "onnxruntime" in speed else "",
                f"{Spread.of(case['ratio']):.2f}",
            ]
        )
    memory = []
    if "memory" in document:
        peaks = ", ".join(
            f"{count} rows {mib:.0f} MiB" for count, mib in document["memory"]["peak_mib"].items()
        )
        memory = [f"Peak memory of the process with {document['memory']['model']}: {peaks}.", ""]
    header = ["model", "architecture of", "dimml", "bare PyTorch", "bare onnxruntime", "ratio"]
    return "\n".join(
        [
            "# Encoding rows with frozen models",
            "",
            "Rows per second: median (least to greatest) of the rounds. The ratio is dimml's speed "
            "over that of the bare PyTorch loop. `python -m benchmarks.pretrained.caching --help` "
            "says what is run.",
            "",
            table(header, rows),
            "",
            *memory,
            f"{document['device']}; {machine_line(document['machine'])}",
            "",
        ]
    )


def main() -> None:
    """Measure all models, and write the result files."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rows", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--name", default="caching", help="of the result files")
    parser.add_argument("--results", type=Path, default=None, help="folder of the result files")
    parser.add_argument("--memory", nargs=2, metavar=("MODEL", "ROWS"), help="internal")
    parser.add_argument("--folder", type=Path, help="internal")
    options = parser.parse_args()
    torch.set_num_threads(available_cores())
    if options.memory:
        name, count = options.memory
        model, kind = read_case(name, options.folder)
        encode_rows(model, kind, make_values(CASES[name].kind, int(count), 0), options.folder)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # noqa: T201
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    measured: dict[str, Any] = {}
    figures: dict[str, Any] = {"device": device, "models": measured}
    folders = {} if options.results is None else {"folder": options.results}
    with tempfile.TemporaryDirectory(prefix="dimml-caching-") as scratch:
        folder = Path(scratch)
        names = options.models.split(",")
        for name in names:
            measured[name] = measure(name, options.rows, options.rounds, folder)
            # A failure later on must not lose these figures.
            write_result(options.name, figures, report, **folders)
        counts = (options.rows, 4 * options.rows)
        peaks = {count: peak_memory_mib(names[0], count, folder) for count in counts}
    figures["memory"] = {"model": names[0], "peak_mib": peaks}
    document = write_result(options.name, figures, report, **folders)
    print_status(report(document))


if __name__ == "__main__":
    main()

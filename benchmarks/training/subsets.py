"""Measure what grows with the number M of modalities, because they have 2 ** M - 1 subsets.

Run `python -m benchmarks.training.subsets`; it takes minutes, and writes
`benchmarks/results/subsets.json` and `.md`. For each M it writes a table of M columns of text with
empty cells, trains one epoch of small encoders, calibrates, exports and evaluates. Text encoders
are the fastest, so that the work on subsets stands out.
"""

from __future__ import annotations

import csv
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.options import benchmark_parser
from benchmarks.results import Document, machine_line, write_result
from dimml.bundle import EVALUATION, MANIFEST, Bundle
from dimml.progress import print_status
from dimml.runtime.session import Graph
from export.bundle import export_run
from train import markdown
from train.data.prepare import prepare
from train.evaluate import answer_split
from train.model_card import model_card
from train.module import encode, subset_accuracies
from train.recipe import load_recipe
from train.report.evaluation import report_document, write_report
from train.run import CACHE, calibrate_readout, train_run
from train.trainer import train_model

MODALITIES = (1, 2, 3, 4, 5, 6, 7, 8, 10)
ROWS = {"train": 300, "validation": 600, "test": 300}
ABSENT = 0.3
CLASSES = 10
TABLES = ("subset_temperature", "share", "head_temperature", "mixture_temperature")
"""Buffers of the classifier with a value for each subset."""
REPEATS = 5
CALLS = 500
COLUMNS = {
    "subsets": "subsets",
    "table_parameters": "parameters of tables by subset",
    "validation_seconds": "validation, s per epoch",
    "calibration_seconds": "calibration, s",
    "export_seconds": "export, s",
    "answer_seconds": "evaluate: answers, s",
    "report_seconds": "evaluate: report, s",
    "uncertified": "subsets without a limit",
}
SIZES = {
    "manifest_bytes": "manifest.json",
    "evaluation_bytes": "evaluation.json",
    "card_bytes": "model card",
    "page_bytes": "report.html",
    "classifier_bytes": "classifier.onnx",
}


def write_table(path: Path, modalities: int) -> None:
    """Write a table of `modalities` texts, each of which names the class in three of four rows."""
    draw = random.Random(0)
    names = [f"text{number}" for number in range(modalities)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "split", *names])
        for split, rows in ROWS.items():
            for row in range(rows):
                label = row % CLASSES
                said = [label if draw.random() < 0.75 else draw.randrange(CLASSES) for _ in names]
                cells = [f"word{one} and more" if draw.random() >= ABSENT else "" for one in said]
                if not any(cells):
                    cells[0] = f"word{said[0]} and more"
                writer.writerow([f"class{label}", split, *cells])


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor seconds that a function takes, and its result.

    With one thread this is the time on an idle machine, whatever else runs beside it.
    """
    started = time.process_time()
    result = function()
    return round(time.process_time() - started, 3), result


def measure_training(recipe: Any, folder: Path) -> dict[str, Any]:
    """Return the seconds of one validation and of the calibration after training."""
    trained = train_model(recipe, prepare(recipe, folder / CACHE), folder / "model", resume=False)
    model, method = trained.model, trained.method
    validation = encode(model, trained.data.val_dataloader())

    def validate() -> None:
        method.inspect_validation(model, validation)
        subset_accuracies(model, method, validation)

    seconds = median(timed(validate)[0] for _ in range(REPEATS))
    readout = method.readout(model)
    calibration, limits = timed(
        lambda: calibrate_readout(readout, model, validation, recipe.coverage)
    )
    return {
        "subsets": 2 ** len(model.modalities) - 1,
        "table_parameters": sum(
            buffer.numel() for name, buffer in model.fusion.named_buffers() if name.endswith(TABLES)
        ),
        "validation_seconds": seconds,
        "calibration_seconds": calibration,
        "uncertified": len(limits.uncertified),
    }


def measure_bundle(bundle: Path, table: Path) -> dict[str, Any]:
    """Return the seconds of an evaluation, the sizes of files and the latency of the classifier."""
    answers, evaluated = timed(lambda: answer_split(bundle, table, "test"))
    evaluation = evaluated.document()
    (bundle / EVALUATION).write_text(json.dumps(evaluation, indent=2))
    report, page = timed(lambda: write_report(bundle, report_document(evaluated, evaluation)))
    manifest = Bundle.load(bundle).manifest
    classifier = bundle / manifest.classifier
    sizes = {
        "manifest_bytes": (bundle / MANIFEST).stat().st_size,
        "evaluation_bytes": (bundle / EVALUATION).stat().st_size,
        "card_bytes": len(model_card(bundle, evaluation).encode()),
        "page_bytes": page.stat().st_size,
        "classifier_bytes": classifier.stat().st_size,
    }
    return {
        "answer_seconds": answers,
        "report_seconds": report,
        **sizes,
        "latency_ms": {
            str(batch): classifier_latency(classifier, len(manifest.modalities), batch)
            for batch in (1, 64)
        },
    }


def classifier_latency(graph: Path, modalities: int, batch: int) -> float:
    """Return the time of a call of `classifier.onnx` on one thread, in milliseconds."""
    session = Graph(graph, "cpu")
    draw = np.random.default_rng(0)
    width = session.inputs["features"][-1]
    inputs = {
        "features": draw.standard_normal((batch, modalities, width), np.float32),
        "present": np.ones((batch, modalities), bool),
    }

    def run() -> None:
        for _ in range(CALLS):
            session.run(inputs)

    run()
    return round(1000 * timed(run)[0] / CALLS, 4)


def measure(modalities: int, folder: Path) -> dict[str, Any]:
    """Train, calibrate, export and evaluate, and return all figures."""
    table = folder / "table.csv"
    write_table(table, modalities)
    names = [f"text{number}" for number in range(modalities)]
    document = {
        "name": f"m{modalities}",
        "data": str(table),
        "modalities": {n: {"kind": "text", "preprocessing": {"max_length": 8}} for n in names},
        "training": {"epochs": 1, "batch_size": 32, "logger": "none"},
    }
    (folder / "recipe.yaml").write_text(json.dumps(document))
    recipe = load_recipe(folder / "recipe.yaml")
    figures = measure_training(recipe, folder)
    train_run(recipe, folder / "run", resume=False)
    export, _ = timed(lambda: export_run(folder / "run", folder / "bundle"))
    return {**figures, "export_seconds": export, **measure_bundle(folder / "bundle", table)}


def _report(document: Document) -> str:
    lines = [
        "# What grows with the number of modalities",
        "",
        machine_line(document["machine"]),
        "",
        f"Tables of texts: {ROWS['train']} rows of training, {ROWS['validation']} of validation, "
        f"{ROWS['test']} of test, {ABSENT:.0%} of the cells empty, {CLASSES} classes. Processor "
        "seconds, one thread. "
        "Encoders of more modalities also take longer to export and to run.",
        "",
    ]
    runs = document["modalities"]
    rows = [[m, *(f"{run[key]:g}" for key in COLUMNS)] for m, run in runs.items()]
    lines += [markdown.table(["M", *COLUMNS.values()], rows), ""]
    rows = [
        [
            m,
            *(f"{run[key] / 1000:.1f} kB" for key in SIZES),
            *(f"{run['latency_ms'][batch]:.3f} ms" for batch in ("1", "64")),
        ]
        for m, run in runs.items()
    ]
    titles = ["M", *SIZES.values(), "classifier, batch 1", "batch 64"]
    return "\n".join([*lines, markdown.table(titles, rows), ""])


def main() -> None:
    """Run the benchmark."""
    benchmark_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    measured = {}
    for modalities in MODALITIES:
        with tempfile.TemporaryDirectory() as scratch:
            measured[str(modalities)] = measure(modalities, Path(scratch))
        print_status(f"{modalities}: {measured[str(modalities)]}")
        write_result("subsets", {"rows": ROWS, "absent": ABSENT, "modalities": measured}, _report)


if __name__ == "__main__":
    main()

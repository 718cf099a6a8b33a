"""Compare frozen and tuned versions of one text model on the misspelt number words of the digits.

Run `python -m benchmarks.pretrained.tuning MODEL`, where MODEL is a folder or a hub id, after
`make serve` has made the digits data; writes `benchmarks/results/tuning.{json,md}`. Every version
trains for the same number of epochs without augmentation. The time includes encoding and loading.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.options import benchmark_parser
from benchmarks.pretrained.avmnist import run_dimml
from benchmarks.results import machine_line, write_result
from dimml.machine import SOURCE_ROOT
from dimml.progress import print_status
from train.markdown import table

RECIPE = SOURCE_ROOT / "train" / "recipes" / "digits.yaml"
TUNINGS = ("frozen", "last_2", "lora", "full")


def measure(model: str, tune: str, data: Path, epochs: int, folder: Path) -> dict[str, Any]:
    """Train, export and evaluate one version of the model."""
    encoder = f"{{pretrained: {model}, tune: {tune}}}"
    modality = f"{{kind: text, augment: 0, encoder: {encoder}}}"
    manifest = str(data / "manifest.parquet")
    settings = [f"data={manifest}", f"modalities={{text: {modality}}}", f"training.epochs={epochs}"]
    options = [option for setting in settings for option in ("--set", setting)]
    started = time.monotonic()
    run_dimml("train", str(RECIPE), "--out", str(folder / tune / "run"), *options)
    seconds = time.monotonic() - started
    run_dimml("export", str(folder / tune / "run"), str(folder / tune / "bundle"))
    bundle = str(folder / tune / "bundle")
    found = {}
    for split in ("validation", "test"):
        document = json.loads(
            run_dimml("evaluate", bundle, manifest, "--split", split, "--json")[0]
        )
        found[split] = document["subsets"]["text"]["accuracy"]
    return {**found, "seconds": seconds}


def report(document: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    rows = [
        [
            name,
            f"{100 * run['validation']:.1f}",
            f"{100 * run['test']:.1f}",
            f"{run['seconds']:.0f}",
        ]
        for name, run in document["runs"].items()
    ]
    return "\n".join(
        [
            "# Frozen and tuned",
            "",
            f"{document['model']} on misspelt number words in ten languages (4,000 training rows, "
            f"one seed, {document['epochs']} epochs). Differences under 2 points are within what "
            "another test split would change. `python -m benchmarks.pretrained.tuning` measures "
            "again.",
            "",
            table(["tune", "validation, %", "test, %", "training, s"], rows),
            "",
            machine_line(document["machine"]),
            "",
        ]
    )


def main() -> None:
    """Measure every version, and write the result files."""
    parser = benchmark_parser(__doc__, "data")
    parser.add_argument("model", help="a text model: folder or hub id")
    parser.add_argument("--name", default=None, help="of the model in the report")
    parser.add_argument("--epochs", type=int, default=10, help="default: %(default)s")
    options = parser.parse_args()
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="dimml-tuning-") as scratch:
        for tune in TUNINGS:
            runs[tune] = measure(options.model, tune, options.data, options.epochs, Path(scratch))
            print_status(f"{tune}: {runs[tune]}")
    model = options.name or Path(options.model).name
    figures = {"model": model, "epochs": options.epochs, "runs": runs}
    print_status(report(write_result("tuning", figures, report)))


if __name__ == "__main__":
    main()

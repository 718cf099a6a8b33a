"""Compare frozen pretrained encoders with small ones trained from scratch, on avMNIST by speaker.

Run `python -m benchmarks.pretrained.avmnist ROOT --audio MODEL --image MODEL`, where ROOT holds the
published files of avMNIST (see README.md) and each model is a folder or a hub id; writes
`benchmarks/results/avmnist.{json,md}`. Each seed has another split of the speakers. The time runs
from the start of `dimml train`, with empty caches, to the end of `dimml export`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.options import benchmark_parser
from benchmarks.results import Spread, machine_line, write_result
from dimml.machine import SOURCE_ROOT
from dimml.progress import print_status
from train.markdown import table

RECIPE = SOURCE_ROOT / "train" / "recipes" / "avmnist.yaml"
SMALL = (
    "modalities.audio={kind: audio, preprocessing: {seconds: 1.0, hop_length: 400}, "
    "encoder: {preset: small, n_mels: 40}}",
    "modalities.image={kind: image, preprocessing: {size: [48, 48], channels: 1, resize: stretch}, "
    "encoder: small}",
)
_ENCODING = re.compile(r"encoding \w+: \d+ in ([\d.]+) s")


def run_dimml(*arguments: str) -> tuple[str, str]:
    """Run a command of dimml, and return its standard output and standard error."""
    command = [sys.executable, "-m", "dimml", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SOURCE_ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout, done.stderr


def measure(root: Path, seed: int, settings: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Make the data of a seed, train, export and evaluate."""
    data = folder / "data"
    if not data.exists():
        run_dimml("data", "avmnist", str(root), str(data), "--seed", str(seed))
    work = folder / ("small" if settings == SMALL else "frozen")
    manifest = str(data / "manifest.parquet")
    every = [f"data={manifest}", f"seed={seed}", *settings]
    options = [option for setting in every for option in ("--set", setting)]
    started = time.monotonic()
    _, log = run_dimml("train", str(RECIPE), "--out", str(work / "run"), *options)
    trained = time.monotonic()
    run_dimml("export", str(work / "run"), str(work / "bundle"))
    exported = time.monotonic()
    report = json.loads(run_dimml("evaluate", str(work / "bundle"), manifest, "--json")[0])
    encoding = sum(float(seconds) for seconds in _ENCODING.findall(log))
    return {
        "seed": seed,
        "accuracy": {name: row["accuracy"] for name, row in report["subsets"].items()},
        "ece": {name: row["ece"] for name, row in report["subsets"].items()},
        "seconds": {
            "encoding": encoding,
            "training": trained - started - encoding,
            "export": exported - trained,
            "total": exported - started,
        },
    }


def report(document: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    runs = document["runs"]
    subsets = list(runs["small"][0]["accuracy"])
    times = list(runs["small"][0]["seconds"])
    rows = [
        [
            name,
            *(f"{Spread.of(100 * run['accuracy'][s] for run in found):.1f}" for s in subsets),
            *(f"{Spread.of(run['seconds'][t] for run in found):.0f}" for t in times),
        ]
        for name, found in runs.items()
    ]
    header = ["encoders", *(f"{s}, %" for s in subsets), *(f"{t}, s" for t in times)]
    models = ", ".join(document["models"].values())
    return "\n".join(
        [
            "# avMNIST by speaker: frozen pretrained encoders and small ones",
            "",
            f"Accuracy on the test speaker and seconds, median (least to greatest) of "
            f"{len(runs['small'])} seeds. Frozen: {models}. "
            "`python -m benchmarks.pretrained.avmnist` measures again.",
            "",
            table(header, rows),
            "",
            machine_line(document["machine"]),
            "",
        ]
    )


def main() -> None:
    """Measure both kinds of encoders with every seed, and write the result files."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("root", type=Path, help="the published files of avMNIST")
    parser.add_argument("--audio", required=True, help="a Whisper: folder or hub id")
    parser.add_argument("--image", required=True, help="an image model: folder or hub id")
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    options = parser.parse_args()
    models = {"audio": options.audio, "image": options.image}
    frozen = tuple(f"modalities.{name}.encoder={model}" for name, model in models.items())
    runs: dict[str, list[dict[str, Any]]] = {"frozen": [], "small": []}
    with tempfile.TemporaryDirectory(prefix="dimml-avmnist-") as scratch:
        for seed in range(options.seeds):
            for name, settings in (("frozen", frozen), ("small", SMALL)):
                found = measure(options.root, seed, settings, Path(scratch) / str(seed))
                print_status(f"seed {seed}, {name}: {found['accuracy']}, {found['seconds']}")
                runs[name].append(found)
    names = {name: Path(model).name for name, model in models.items()}
    document = write_result("avmnist", {"models": names, "runs": runs}, report)
    print_status(report(document))


if __name__ == "__main__":
    main()

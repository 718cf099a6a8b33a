"""Compare dimml's HTTP service with other servers of the same model.

Run `python -m benchmarks.http` on an otherwise idle machine; it measures throughput, latency,
processor time and memory, and writes `benchmarks/results/http.json` and `http.md`. Needs a trained
and exported run with its data (`make serve`), the extra `bench`, and `wrk`.

One server runs at a time. Each is started, checked, warmed up, measured and stopped once per round,
so that noise of the machine affects all servers alike. `--quick` is a test of two to three
minutes, not a measurement, and writes to `runs/`.

`--model real` measures a bundle of MiniLM, EfficientNet-Lite0 and Whisper base instead, beside the
best of the rivals, and writes `http-real.json` and `http-real.md`. It builds the bundle on first
use, see `benchmarks/offline/real/models.py`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.http.load import (
    load_test_samples,
    multipart,
    write_bodies,
    wrk_path,
    wrk_version,
)
from benchmarks.http.report import markdown
from benchmarks.http.rounds import RoundSettings, measure_round
from benchmarks.http.servers import FASTAPI_ONNX, FASTAPI_TORCH, OURS, POOL_OF_1, servers
from benchmarks.http.targets import ALL, disturbed, judge
from benchmarks.offline.real.models import REAL, build_bundles
from benchmarks.options import benchmark_parser
from benchmarks.results import RESULTS, write_result
from benchmarks.samples import modality_kinds
from dimml.errors import DimmlError, UsageError
from dimml.machine import SOURCE_ROOT, available_cores, describe_machine
from dimml.predictor import Predictor
from dimml.progress import print_status
from dimml.samples import subset_name, subsets

CONNECTIONS = {"digits": (1, 8, 32), "real": (1, 8)}
FLOOR_BATCHES = {"digits": (4, 8, 16, 32), "real": (8,)}
DEFAULTS = {"digits": (5, 5), "real": (8, 1)}
"""Seconds of a measurement, and rounds."""

RESULT = {"digits": "http", "real": "http-real"}
REAL_SERVERS = (OURS, f"{FASTAPI_TORCH}, {POOL_OF_1}", f"{FASTAPI_ONNX}, {POOL_OF_1}")
PACKAGES = ("fastapi", "uvicorn", "litserve", "uvloop")
QUICK_RESULTS = SOURCE_ROOT / "runs"


def _settings(options: argparse.Namespace, folder: Path) -> RoundSettings:
    predictor = Predictor.load(options.bundle, "cpu")
    samples = load_test_samples(predictor.bundle, options.run.parent / "data")
    kinds = modality_kinds(predictor.bundle)
    bodies, checked = {}, [dict(sample) for sample in samples[:3]]
    real = options.model == "real"
    measured = [tuple(kinds)] if real else subsets(list(kinds))
    for subset in sorted(measured, key=len, reverse=True):
        name = ALL if len(subset) == len(kinds) else subset_name(subset)
        bodies[name] = folder / f"bodies-{name}"
        write_bodies(bodies[name], samples, subset, kinds)
        checked.append({modality: samples[3][modality] for modality in subset})
    compared = servers(options.run, options.bundle, available_cores())
    if real:
        compared = [server for server in compared if server.name in REAL_SERVERS]
    names = [server.name for server in compared]
    return RoundSettings(
        bundle=options.bundle,
        samples=samples,
        servers=compared,
        requests=[(multipart(s, kinds), predictor.predict(s).to_dict()) for s in checked],
        connections=CONNECTIONS[options.model],
        bodies=bodies,
        folder=folder,
        seconds=options.seconds,
        warm_up=1 if options.quick else 3,
        subset_servers=names if options.all_subsets else [OURS, FASTAPI_ONNX],
        floor_batches=(16,) if options.quick else FLOOR_BATCHES[options.model],
    )


def _run(options: argparse.Namespace) -> None:
    _check_installed()
    started = time.monotonic()
    results = QUICK_RESULTS if options.quick else RESULTS
    machine = describe_machine()
    machine["packages"] |= {**{name: version(name) for name in PACKAGES}, "wrk": wrk_version()}
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dimml-bench-", ignore_cleanup_errors=True) as name:
        settings = _settings(options, Path(name))
        described = {
            "seconds": options.seconds,
            "samples": len(settings.samples),
            "connections": settings.connections,
            "model": options.model,
        }
        for number in range(options.repeats):
            rounds.append(measure_round(settings, number))
            document = {
                "machine": machine,
                "settings": {**described, "rounds": len(rounds)},
                "targets": judge(rounds),
                "rounds": rounds,
            }
            # After every round, so that an interrupted run keeps its complete rounds.
            write_result(RESULT[options.model], document, markdown, results)
    count, cells = disturbed(rounds)
    print_status(f"other processes disturbed {count} of {cells} measurements")
    print_status(
        f"wrote {results / RESULT[options.model]}.md after {time.monotonic() - started:.0f} s"
    )


def _check_installed() -> None:
    wrk_path()
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UsageError(
            f"packages are missing: {', '.join(missing)}; "
            "install them: pip install -e '.[train,serve,bench]'"
        )


def _options() -> argparse.Namespace:
    parser = benchmark_parser(__doc__, "bundle", "run")
    parser.add_argument("--seconds", type=float, help="of one measurement; default: 5, real: 8")
    parser.add_argument("--repeats", type=int, help="number of rounds; default: 5, real: 1")
    parser.add_argument("--model", choices=list(CONNECTIONS), default="digits")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s, into runs/")
    parser.add_argument(
        "--all-subsets", action="store_true", help="measure every rival on every subset"
    )
    options = parser.parse_args()
    seconds, repeats = DEFAULTS[options.model]
    options.seconds = options.seconds or (1 if options.quick else seconds)
    options.repeats = options.repeats or (1 if options.quick else repeats)
    return options


def main() -> None:
    """Measure and write the report."""
    options = _options()
    if options.model == "real":
        build_bundles()
        options.run, options.bundle = REAL / "run", REAL / "bundle"
    # Exit by an exception, so that `running` stops the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _run(options)
    except (DimmlError, RuntimeError) as error:
        print_status(f"error: {error}")
        sys.exit(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

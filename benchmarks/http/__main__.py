"""dimml's HTTP service beside rivals that serve the same model: throughput, latency, CPU, memory.

Run as `python -m benchmarks.http`, on a machine that does nothing else; writes
`benchmarks/results/http.json` and `http.md`. It needs a trained and exported run with its data,
the extra `bench`, and `wrk`. One server runs at a time: each is started, checked, warmed up,
measured and stopped once per round, so that noise hits all alike and idle rivals cost nothing.
`--quick` takes two to three minutes, writes to `runs/` and is no measurement.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.http.load import multipart, read_samples, write_bodies, wrk_path, wrk_version
from benchmarks.http.report import markdown
from benchmarks.http.rounds import CONNECTIONS, Bench, measure_round, say
from benchmarks.http.servers import FASTAPI_ONNX, OURS, servers
from benchmarks.http.targets import ALL, disturbed, judge
from dimml.errors import DimmlError, UsageError
from dimml.machine import SOURCE_ROOT, available_cores, describe_machine
from dimml.predictor import Predictor
from dimml.samples import subset_name, subsets

FLOOR_BATCHES = (4, 8, 16, 32)
PACKAGES = ("fastapi", "uvicorn", "litserve", "uvloop")
RESULTS = Path(__file__).parents[1] / "results"
QUICK_RESULTS = SOURCE_ROOT / "runs"


def _bench(given: argparse.Namespace, folder: Path) -> Bench:
    predictor = Predictor.load(given.bundle, "cpu")
    data = given.run.parent / "data"
    samples = read_samples(predictor.bundle, data)
    kinds = {name: spec.kind for name, spec in predictor.bundle.manifest.modalities.items()}
    bodies, checked = {}, [dict(sample) for sample in samples[:3]]
    for subset in sorted(subsets(list(kinds)), key=len, reverse=True):
        name = ALL if len(subset) == len(kinds) else subset_name(subset)
        bodies[name] = folder / f"bodies-{name}"
        write_bodies(bodies[name], samples, subset, kinds)
        checked.append({modality: samples[3][modality] for modality in subset})
    compared = servers(given.run, given.bundle, available_cores(), given.lean)
    names = [server.name for server in compared]
    return Bench(
        bundle=given.bundle,
        data=data,
        servers=compared,
        requests=[(multipart(s, kinds), predictor.predict(s).to_dict()) for s in checked],
        bodies=bodies,
        folder=folder,
        seconds=given.seconds,
        warm_up=1 if given.quick else 3,
        subset_servers=names if given.all_subsets else [OURS, FASTAPI_ONNX],
        floor_batches=(16,) if given.quick else FLOOR_BATCHES,
    )


def _run(given: argparse.Namespace) -> None:
    _check_installed()
    started = time.monotonic()
    results = QUICK_RESULTS if given.quick else RESULTS
    results.mkdir(exist_ok=True)
    described = describe_machine()
    installed = {name: found for name in PACKAGES if (found := _version(name))}
    described["packages"] = {**described["packages"], **installed, "wrk": wrk_version()}
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dimml-bench-", ignore_cleanup_errors=True) as name:
        bench = _bench(given, Path(name))
        settings = {
            "seconds": given.seconds,
            "samples": len(list(bench.bodies[ALL].iterdir())),
            "connections": CONNECTIONS,
            "lean": given.lean,
        }
        for number in range(given.repeats):
            rounds.append(measure_round(bench, number))
            document = {
                "machine": described,
                "settings": {**settings, "rounds": len(rounds)},
                "targets": judge(rounds),
                "rounds": rounds,
            }
            # After every round: a long run that is stopped leaves what it has.
            (results / "http.json").write_text(json.dumps(document, indent=2) + "\n")
            (results / "http.md").write_text(markdown(document))
    count, cells = disturbed(rounds)
    say(f"other processes disturbed {count} of {cells} measurements")
    say(f"{results / 'http.md'} after {time.monotonic() - started:.0f} s")


def _check_installed() -> None:
    wrk_path()
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UsageError(
            f"{', '.join(missing)} not installed: pip install -e '.[train,serve,bench]'"
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _settings(text: str) -> dict[str, str]:
    """`A=1,B=2` as a mapping."""
    pairs = [word.partition("=") for word in text.split(",") if word]
    if not all(separator and name.startswith("DIMML_") for name, separator, _ in pairs):
        raise argparse.ArgumentTypeError("give DIMML_X=VALUE,DIMML_Y=VALUE")
    return {name: value for name, _, value in pairs}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=SOURCE_ROOT / "runs/digits/bundle")
    parser.add_argument("--run", type=Path, default=SOURCE_ROOT / "runs/digits/run")
    parser.add_argument("--seconds", type=float, default=None, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=None, help="rounds")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s, into runs/")
    parser.add_argument("--all-subsets", action="store_true", help="put them to every rival")
    parser.add_argument("--lean", type=_settings, default={}, help="also ours with DIMML_X=Y,...")
    given = parser.parse_args()
    given.seconds = given.seconds or (1 if given.quick else 5)
    given.repeats = given.repeats or (1 if given.quick else 5)
    given.bundle, given.run = given.bundle.absolute(), given.run.absolute()
    return given


def main() -> None:
    """Measures and writes the report."""
    given = _arguments()
    # So that a server is ended with us, see `running`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _run(given)
    except (DimmlError, RuntimeError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

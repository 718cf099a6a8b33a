"""Send damaged uploads to a server of two workers, and run the fuzz tests with more examples.

Run `make fuzz`, or `python -m benchmarks.robustness.fuzz`; writes `benchmarks/results/fuzz.json`.
Exits with 1 if an answer has an undocumented status, a worker ends, or a test fails.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from benchmarks.http.load import CONTENT_TYPE, form
from benchmarks.http.servers import Server, running
from benchmarks.options import benchmark_parser
from benchmarks.results import write_result
from benchmarks.robustness.mutation import upload
from benchmarks.samples import modality_kinds
from dimml.bundle import Bundle
from dimml.machine import SOURCE_ROOT

TESTS = "tests/serving/http/test_fuzz.py"
CLIENTS, WORKERS = 4, 2
TIMEOUT_SECONDS = 10
DOCUMENTED_STATUSES = {"200", "400", "413", "415", "422"}


class UploadResult(NamedTuple):
    """The answer to one damaged upload.

    Attributes:
        seed: Seed of the upload, to reproduce it.
        status: HTTP status, or the name of a connection error.
        code: Error code, or "prediction".
        seconds: Latency.
    """

    seed: int
    status: str
    code: str
    seconds: float


def send_uploads(bundle: Path, count: int) -> dict[str, Any]:
    """Send damaged uploads to `dimml serve`, and check its workers, memory and log afterwards."""
    names = {kind: name for name, kind in modality_kinds(Bundle.load(bundle)).items()}
    command = ("-m", "dimml", "serve", str(bundle), "--port", "{port}", "--workers", str(WORKERS))
    good = form([(names["text"], None, b"seven")])
    with tempfile.TemporaryDirectory() as folder:
        server = Server("dimml", command, {"DIMML_REQUEST_LOG": "0"})
        with running(server, good, Path(folder)) as service, ThreadPoolExecutor(CLIENTS) as pool:
            before, memory = set(service.workers()), service.memory_mib()
            started = time.perf_counter()
            shares = [range(first, count, CLIENTS) for first in range(CLIENTS)]
            parts = list(pool.map(partial(_send_share, service.url, names), shares))
            seconds = time.perf_counter() - started
            after, memory_after = set(service.workers()), service.memory_mib()
        log = (Path(folder) / "dimml.log").read_text(errors="replace")
    results = sorted(result for part in parts for result in part)
    return {
        "uploads": count,
        "workers": WORKERS,
        "seconds": round(seconds),
        "statuses": dict(sorted(Counter(result.status for result in results).items())),
        "codes": dict(sorted(Counter(result.code for result in results).items())),
        "slowest_s": round(max(result.seconds for result in results), 2),
        "unexpected_seeds": [r.seed for r in results if r.status not in DOCUMENTED_STATUSES],
        "workers_lost": len(before - after),
        "tracebacks": log.count("Traceback"),
        "pss_mib": {"before": round(memory["pss"]), "after": round(memory_after["pss"])},
    }


def _send_share(url: str, names: dict[str, str], seeds: range) -> list[UploadResult]:
    """Send the uploads of the seeds over one connection."""
    connection = http.client.HTTPConnection(str(urlsplit(url).netloc), timeout=TIMEOUT_SECONDS)
    results = []
    for seed in seeds:
        body = upload(seed, **names)
        path = "/predict" if seed % 2 else "/predict?on_unreadable=absent"
        started = time.perf_counter()
        try:
            connection.request("POST", path, body, {"Content-Type": CONTENT_TYPE})
            answer = connection.getresponse()
            status, content = str(answer.status), json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            connection.close()
            status, content = type(error).__name__, {"error": {"code": "none"}}
        code = content["error"]["code"] if "error" in content else "prediction"
        results.append(UploadResult(seed, status, code, time.perf_counter() - started))
    return results


def try_properties(scale: float) -> dict[str, Any]:
    """Run the fuzz tests with `scale` times their examples."""
    options = ("-o", "timeout=0", "-o", "addopts=", "--import-mode=importlib", "-p", "no:randomly")
    command = [sys.executable, "-m", "pytest", TESTS, "--hypothesis-show-statistics", *options]
    started = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=SOURCE_ROOT,
        env={**os.environ, "FUZZ_SCALE": str(scale)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout[-5000:])
    sections = re.findall(rf"^{TESTS}::(\S+?):$(.*?)(?=^{TESTS}::|\Z)", done.stdout, re.M | re.S)
    examples = {
        name.partition("::")[2]: sum(int(n) for n in re.findall(r"(\d+) passing", text))
        for name, text in sections
    }
    return {
        "scale": scale,
        "seconds": round(time.perf_counter() - started),
        "passed": done.returncode == 0,
        "examples": examples,
    }


def main() -> None:
    """Send the uploads, run the tests, and write the counts."""
    parser = benchmark_parser(__doc__, "bundle")
    parser.add_argument("--uploads", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument(
        "--scale", type=float, default=20, help="factor on the examples of the tests; default: 20"
    )
    options = parser.parse_args()
    server = send_uploads(options.bundle, options.uploads)
    properties = try_properties(options.scale)
    figures = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "bundle": Bundle.load(options.bundle).id,
        "server": server,
        "properties": properties,
    }
    write_result("fuzz", figures)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    bad = server["unexpected_seeds"] or server["workers_lost"] or server["tracebacks"]
    sys.exit(1 if bad or not properties["passed"] else 0)


if __name__ == "__main__":
    main()

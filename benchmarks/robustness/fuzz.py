"""Damaged uploads to a server of two workers, and the properties of the suite's fuzz tests.

Run as `make fuzz`, or `python -m benchmarks.robustness.fuzz [--uploads 10000] [--scale 20]`; writes
`benchmarks/results/fuzz.json`. Fails where anything but an answer of the documented statuses came.
"""

from __future__ import annotations

import argparse
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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.http.load import CONTENT_TYPE
from benchmarks.http.servers import Running, Server, running
from benchmarks.robustness.mutation import form, upload
from dimml.bundle import Bundle
from dimml.machine import SOURCE_ROOT, describe_machine

RESULT = Path(__file__).parents[1] / "results" / "fuzz.json"
TESTS = "tests/serving/http/test_fuzz.py"
CLIENTS, WORKERS = 4, 2
HANG_SECONDS = 10
EXPECTED = {"200", "400", "413", "415", "422"}


@dataclass
class Answers:
    """What the uploads were answered with.

    Attributes:
        statuses: how many answers of each, and of errors of the connection.
        codes: how many of each error code, or "prediction".
        seconds: the slowest answer.
        unexpected: seeds of uploads with another status than documented, to repeat them.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    unexpected: list[int] = field(default_factory=list)


class Client:
    """One connection that sends damaged uploads."""

    def __init__(self, url: str, names: dict[str, str]) -> None:
        self._address = str(urlsplit(url).netloc)
        self._names = names
        self._connection = http.client.HTTPConnection(self._address, timeout=HANG_SECONDS)

    def send(self, seed: int, answers: Answers) -> None:
        """Sends one upload and counts its answer."""
        body = upload(seed, **self._names)
        path = "/predict" if seed % 2 else "/predict?on_unreadable=absent"
        started = time.perf_counter()
        try:
            self._connection.request("POST", path, body, {"Content-Type": CONTENT_TYPE})
            answer = self._connection.getresponse()
            status, content = str(answer.status), json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._connection.close()
            status, content = type(error).__name__, {"error": {"code": "none"}}
        answers.seconds = max(answers.seconds, time.perf_counter() - started)
        answers.statuses[status] += 1
        answers.codes[content["error"]["code"] if "error" in content else "prediction"] += 1
        if status not in EXPECTED:
            answers.unexpected.append(seed)


def send_uploads(bundle: Path, count: int) -> dict[str, Any]:
    """Sends damaged uploads to `dimml serve`, and looks at what is left of it."""
    kinds = Bundle.load(bundle).manifest.modalities
    names = {spec.kind: name for name, spec in kinds.items()}
    command = ("-m", "dimml", "serve", str(bundle), "--port", "{port}", "--workers", str(WORKERS))
    good = form([(names["text"], None, b"seven")])
    with tempfile.TemporaryDirectory() as folder:
        server = Server("dimml", command, {"DIMML_REQUEST_LOG": "0"})
        with running(server, good, Path(folder)) as service:
            before, memory = _workers(service), service.memory_mib()
            answers, seconds = _send(service.url, names, count)
            after, memory_after = _workers(service), service.memory_mib()
        log = (Path(folder) / "dimml.log").read_text(errors="replace")
    return {
        "uploads": count,
        "workers": WORKERS,
        "seconds": round(seconds),
        "statuses": dict(sorted(answers.statuses.items())),
        "codes": dict(sorted(answers.codes.items())),
        "slowest_s": round(answers.seconds, 2),
        "unexpected_seeds": answers.unexpected,
        "workers_lost": len(before - after),
        "tracebacks": log.count("Traceback"),
        "pss_mib": {"before": round(memory["pss"]), "after": round(memory_after["pss"])},
    }


def _send(url: str, names: dict[str, str], count: int) -> tuple[Answers, float]:
    answers = Answers()

    def act(first: int) -> None:
        client = Client(url, names)
        for seed in range(first, count, CLIENTS):
            client.send(seed, answers)

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(act, range(CLIENTS)))
    return answers, time.perf_counter() - started


def _workers(service: Running) -> set[int]:
    found = [c for c in service.process.children() if c.status() != psutil.STATUS_ZOMBIE]
    return {child.pid for child in found if "worker" in " ".join(child.cmdline())}


def try_properties(scale: float) -> dict[str, Any]:
    """Runs the tests with `scale` times their examples."""
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
    found = re.findall(rf"^{TESTS}::(\S+?):$(.*?)(?=^{TESTS}::|\Z)", done.stdout, re.M | re.S)
    tried = {
        name.partition("::")[2]: sum(int(n) for n in re.findall(r"(\d+) passing", text))
        for name, text in found
    }
    return {
        "scale": scale,
        "seconds": round(time.perf_counter() - started),
        "passed": done.returncode == 0,
        "examples": tried,
    }


def main() -> None:
    """Runs all, prints the counts and writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=SOURCE_ROOT / "runs/digits/bundle")
    parser.add_argument("--uploads", type=int, default=10_000)
    parser.add_argument("--scale", type=float, default=20)
    arguments = parser.parse_args()
    report = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "bundle": Bundle.load(arguments.bundle).id,
        "server": send_uploads(arguments.bundle, arguments.uploads),
        "properties": try_properties(arguments.scale),
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(json.dumps({k: report[k] for k in ("server", "properties")}, indent=2) + "\n")
    server = report["server"]
    bad = server["unexpected_seeds"] or server["workers_lost"] or server["tracebacks"]
    sys.exit(1 if bad or not report["properties"]["passed"] else 0)


if __name__ == "__main__":
    main()

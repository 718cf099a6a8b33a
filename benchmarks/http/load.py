"""Write real samples as multipart bodies, and post them with `wrk`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.samples import complete_samples, modality_kinds
from dimml.bundle import Bundle
from dimml.errors import UsageError

SAMPLES = 64
BOUNDARY = "dimml-benchmark-boundary"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
SCRIPT = Path(__file__).with_name("wrk.lua")
FILES = {"audio": ("sample.wav", "audio/wav"), "image": ("sample.png", "image/png")}
"""The file name and content type of each kind's part. Text is a plain field."""

_RESULT = re.compile(r"^wrk-result (\{.*\})$", re.MULTILINE)
_VERSION = re.compile(r"^wrk (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class LoadResult:
    """The measurements of one run of `wrk`.

    Attributes:
        requests: Answered requests, whatever their status.
        seconds: Duration.
        p50_ms: Median latency.
        p99_ms: 99th percentile of latency, which `wrk` corrects for coordinated omission.
        max_ms: Latency of the slowest answer.
        not_2xx: Answers with a status of 400 or more.
        socket_errors: Failed connections, reads and writes.
        timeouts: Requests without an answer in time.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    not_2xx: int
    socket_errors: int
    timeouts: int

    @property
    def per_second(self) -> float:
        """Answered requests per second."""
        return self.requests / self.seconds

    @property
    def errors(self) -> int:
        """Errors of every kind."""
        return self.not_2xx + self.socket_errors + self.timeouts


def parse_wrk(output: str) -> LoadResult:
    """Parse the line that `wrk.lua` prints.

    Raises:
        ValueError: If the line is absent or lacks a figure.
    """
    match = _RESULT.search(output)
    if match is None:
        raise ValueError(f"wrk printed no result: {output.strip()[-500:] or '(nothing)'}")
    try:
        return LoadResult(**json.loads(match[1]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"wrk printed {match[1]}: {error}") from error


def wrk_path() -> str:
    """Return the path of `wrk`.

    Raises:
        UsageError: If `wrk` is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise UsageError("the load generator wrk is missing; install it: apt-get install wrk")
    return path


def wrk_version() -> str:
    """Return the version that `wrk` states."""
    # wrk answers --version with its usage and status 1.
    done = subprocess.run([wrk_path(), "--version"], capture_output=True, text=True, check=False)
    match = _VERSION.search(done.stdout + done.stderr)
    return match[1] if match else "unknown"


def run_wrk(
    url: str, bodies: Path, connections: int, seconds: float, pause_ms: float = 0
) -> LoadResult:
    """Post the bodies of a folder in turn, over several connections from one thread.

    Args:
        url: Where to post.
        bodies: Folder that `write_bodies` has filled.
        connections: Number of connections, each with one request at a time.
        seconds: Duration.
        pause_ms: Mean of the random pause between an answer and the next request.
    """
    count = len(list(bodies.glob("*.body")))
    options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    command = [wrk_path(), *options, "-s", str(SCRIPT), url]
    arguments = ["--", str(bodies), str(count), CONTENT_TYPE, f"{pause_ms:.3f}"]
    done = subprocess.run(
        command + arguments, capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    return parse_wrk(done.stdout + done.stderr)


def load_test_samples(bundle: Bundle, data: Path) -> list[dict[str, Any]]:
    """Return samples of the test split that have every modality: files as bytes, text as str.

    Raises:
        UsageError: If there are too few.
    """
    kinds = modality_kinds(bundle)
    if not set(kinds.values()) <= {*FILES, "text"}:
        raise UsageError(
            f"{bundle.path} has modalities of other kinds than audio, image and text; "
            "use the bundle of the digits example"
        )
    samples = [
        {n: Path(v).read_bytes() if kinds[n] in FILES else v for n, v in sample.items()}
        for sample in islice(complete_samples(bundle, data, "test"), SAMPLES)
    ]
    if len(samples) < SAMPLES:
        raise UsageError(
            f"the test split of {data} has {len(samples)} samples with every modality; "
            f"{SAMPLES} are needed"
        )
    return samples


def multipart(sample: Mapping[str, Any], kinds: Mapping[str, str]) -> bytes:
    """Return the multipart body of a request, as a browser writes it."""
    parts = []
    for name, value in sample.items():
        filename, _ = FILES.get(kinds[name], (None, None))
        parts.append((name, filename, value if isinstance(value, bytes) else value.encode()))
    return form(parts, dict(FILES.values()))


def form(
    parts: Iterable[tuple[str, str | None, bytes]], content_types: Mapping[str, str] | None = None
) -> bytes:
    """Return a well-formed multipart body.

    Args:
        parts: Field name, file name (None for a plain field) and content of each part.
        content_types: Content type by file name; other parts state none.
    """
    body = b""
    for name, filename, content in parts:
        head = f'Content-Disposition: form-data; name="{name}"'
        if filename is not None:
            head += f'; filename="{filename}"'
        if content_type := (content_types or {}).get(filename or ""):
            head += f"\r\nContent-Type: {content_type}"
        body += f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def write_bodies(
    folder: Path,
    samples: Sequence[Mapping[str, Any]],
    subset: Sequence[str],
    kinds: Mapping[str, str],
) -> None:
    """Write the bodies that `wrk.lua` reads: a subset of the modalities of each sample."""
    folder.mkdir()
    for index, sample in enumerate(samples):
        body = multipart({name: sample[name] for name in subset}, kinds)
        (folder / f"{index}.body").write_bytes(body)

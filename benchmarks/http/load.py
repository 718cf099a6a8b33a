"""The load: real samples as multipart bodies, and `wrk` that posts them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from dimml.bundle import Bundle
from dimml.errors import UsageError
from dimml.samples import is_absent
from dimml.table import read_rows

SAMPLES = 64
BOUNDARY = "dimml-benchmark-boundary"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
SCRIPT = Path(__file__).with_name("wrk.lua")
FILES = {"audio": ("sample.wav", "audio/wav"), "image": ("sample.png", "image/png")}
"""Kind to the name and type that its part carries; text is a plain field."""

_RESULT = re.compile(r"^wrk-result (\{.*\})$", re.MULTILINE)
_VERSION = re.compile(r"^wrk (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Load:
    """What `wrk` measured.

    Attributes:
        requests: answered, whatever their status.
        seconds: how long it took.
        p50_ms: median latency.
        p99_ms: 99th percentile of latency, which `wrk` corrects for coordinated omission.
        max_ms: the slowest answer.
        not_2xx: answers with a status of 400 or more.
        socket_errors: connections that failed, reads and writes that did.
        timeouts: requests without an answer in time.
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
        """Requests answered per second."""
        return self.requests / self.seconds

    @property
    def errors(self) -> int:
        """Everything that went wrong."""
        return self.not_2xx + self.socket_errors + self.timeouts


def parse_wrk(output: str) -> Load:
    """Reads the line that `wrk.lua` prints.

    Raises:
        ValueError: there is none, or it lacks a figure.
    """
    found = _RESULT.search(output)
    if found is None:
        raise ValueError(f"wrk printed no result: {output.strip()[-500:] or '(nothing)'}")
    try:
        return Load(**json.loads(found[1]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"wrk printed {found[1]}: {error}") from error


def wrk_path() -> str:
    """Where `wrk` is.

    Raises:
        UsageError: nowhere.
    """
    path = shutil.which("wrk")
    if path is None:
        raise UsageError("the load generator wrk is missing; install it: apt-get install wrk")
    return path


def wrk_version() -> str:
    """The version that `wrk` gives itself."""
    # It answers --version with its usage and status 1.
    done = subprocess.run([wrk_path(), "--version"], capture_output=True, text=True, check=False)
    found = _VERSION.search(done.stdout + done.stderr)
    return found[1] if found else "unknown"


def run_wrk(url: str, bodies: Path, connections: int, seconds: float, pause_ms: float = 0) -> Load:
    """Posts the bodies of a folder in turn, over `connections` connections from one thread.

    Each asks again as soon as it is answered, or after a random pause of `pause_ms` on average.
    """
    count = len(list(bodies.glob("*.body")))
    options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    command = [wrk_path(), *options, "-s", str(SCRIPT), url]
    arguments = ["--", str(bodies), str(count), CONTENT_TYPE, f"{pause_ms:.3f}"]
    done = subprocess.run(
        command + arguments, capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    return parse_wrk(done.stdout + done.stderr)


def read_samples(bundle: Bundle, data: Path) -> list[dict[str, Any]]:
    """Samples of the test split that have every modality: files as bytes, text as str.

    Raises:
        UsageError: there are too few.
    """
    kinds = {name: spec.kind for name, spec in bundle.manifest.modalities.items()}
    if not set(kinds.values()) <= {*FILES, "text"}:
        raise UsageError(f"{bundle.path} has other modalities than audio, image and text")
    samples = list(islice(_whole_samples(data / "manifest.parquet", kinds), SAMPLES))
    if len(samples) < SAMPLES:
        raise UsageError(f"{data} has {len(samples)} whole test samples; {SAMPLES} are needed")
    return samples


def _whole_samples(table: Path, kinds: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for row in read_rows(table, kinds, split="test"):
        if any(is_absent(row.sample[name]) for name in kinds):
            continue
        yield {
            name: Path(row.sample[name]).read_bytes() if kind in FILES else row.sample[name]
            for name, kind in kinds.items()
        }


def multipart(sample: Mapping[str, Any], kinds: Mapping[str, str]) -> bytes:
    """The body of a request, as a browser would write it with `BOUNDARY`."""
    body = b""
    for name, value in sample.items():
        disposition = f'Content-Disposition: form-data; name="{name}"'
        if kinds[name] in FILES:
            filename, content_type = FILES[kinds[name]]
            disposition += f'; filename="{filename}"\r\nContent-Type: {content_type}'
        content = value if isinstance(value, bytes) else value.encode()
        body += f"--{BOUNDARY}\r\n{disposition}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def write_bodies(
    folder: Path,
    samples: Sequence[Mapping[str, Any]],
    subset: Sequence[str],
    kinds: Mapping[str, str],
) -> None:
    """Writes the bodies of the samples, only a subset of their modalities, as `wrk.lua` reads."""
    folder.mkdir()
    for index, sample in enumerate(samples):
        given = {name: sample[name] for name in subset}
        (folder / f"{index}.body").write_bytes(multipart(given, kinds))

"""Which requests are admitted: by API key, by rate, and by the room in the queue."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import ipaddress
import logging
import mmap
import os
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dimml.errors import UsageError
from serving.batching import Batcher
from serving.http.errors import (
    KEY_NOT_ACCEPTED,
    ONLY_LOCAL_CLIENTS,
    QUEUE_FULL,
    RETRY_AFTER_SECONDS,
    STATUSES,
    status_body,
)
from serving.http.request_log import RequestLog, new_record
from serving.metrics import REQUESTS
from serving.settings import Settings

Client = tuple[str, int] | None
"""Address and port of a client; None for one without an address, as of a Unix socket."""
Headers = Sequence[tuple[bytes, bytes]]

MIN_KEY_LENGTH = 16
KEY_FILE_CHECK_SECONDS = 1.0
BURST_SECONDS = 1.0
"""A key may send the requests of this many seconds at once."""
_RATE_SLOTS = 4096

logger = logging.getLogger("bentoml.dimml")


class Keys:
    """The API keys of the settings, and of a file that is read again when it changes.

    Raises:
        UsageError: If the file cannot be read, or a key is too short.
    """

    def __init__(self, settings: Settings) -> None:
        self._fixed = _digests(settings.api_keys.get_secret_value().split(","), "DIMML_API_KEYS")
        self._path = settings.api_keys_file
        self._stamp: tuple[int, int, int] | None = None
        self._checked = 0.0
        self._from_file: tuple[bytes, ...] = ()
        if self._path:
            self._read(self._path)

    @property
    def are_set(self) -> bool:
        """Whether clients need a key; with an empty file, no key is accepted."""
        return bool(self._fixed) or self._path is not None

    def policy(self, settings: Settings) -> str:
        """Return a sentence for the log that says which clients are answered."""
        if self.are_set:
            return "clients need an API key"
        if settings.allow_anonymous:
            return "every client is answered (DIMML_ALLOW_ANONYMOUS)"
        return (
            "no API keys: only clients on this machine are answered; set DIMML_API_KEYS, or "
            "DIMML_ALLOW_ANONYMOUS=1 to answer every client"
        )

    def find(self, key: bytes) -> bytes | None:
        """Return the digest of an accepted key, None for any other key, in constant time."""
        self._refresh()
        candidate = digest(key)
        accepted = None
        for known in (*self._fixed, *self._from_file):
            if hmac.compare_digest(candidate, known):
                accepted = known
        return accepted

    def _refresh(self) -> None:
        if self._path is None or time.monotonic() - self._checked < KEY_FILE_CHECK_SECONDS:
            return
        try:
            self._read(self._path)
        except UsageError as error:
            # A file that is being replaced must not lock every client out.
            logger.error("the API keys stay unchanged: %s", error.message)

    def _read(self, path: Path) -> None:
        self._checked = time.monotonic()
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read DIMML_API_KEYS_FILE: {error}") from error
        self._stamp = stamp
        self._from_file = _digests([line.partition("#")[0] for line in lines], str(path))


def key_of(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the key of a request: `Authorization: Bearer KEY` or `X-API-Key: KEY`."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    return headers.get(b"x-api-key", b"").strip() or None


def is_loopback(client: Client) -> bool:
    """Return whether a client is on this machine."""
    return not client or _is_loopback(client[0])


@functools.lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


class RateLimit:
    """A limit of requests per second and key, over all workers of a service.

    It is the generic cell rate algorithm (ATM Forum, Traffic Management 4.0, 4.4.2), which stores
    one time per key, in a file that the workers map into memory.

    Args:
        per_second: Requests per second and key.
        path: The file; None for a single process.
    """

    def __init__(self, per_second: float, path: Path | None) -> None:
        self._interval = 1 / per_second
        self._tolerance = max(BURST_SECONDS, self._interval)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600) if path else None
        if self._file is None:
            self._times = mmap.mmap(-1, 8 * _RATE_SLOTS)
        else:
            os.ftruncate(self._file, 8 * _RATE_SLOTS)
            self._times = mmap.mmap(self._file, 8 * _RATE_SLOTS)

    def wait(self, key: bytes) -> float:
        """Return 0 and count a request that is allowed now, or the seconds until the next one."""
        offset = 8 * (int.from_bytes(key[:8], "big") % _RATE_SLOTS)
        self._lock(True)
        try:
            now = time.monotonic()
            due = max(now, *struct.unpack_from("d", self._times, offset))
            late: float = due + self._interval - now - self._tolerance
            if late > 1e-9:
                return late
            struct.pack_into("d", self._times, offset, due + self._interval)
            return 0.0
        finally:
            self._lock(False)

    def _lock(self, locked: bool) -> None:
        if self._file is not None:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX if locked else fcntl.LOCK_UN)


def _digests(keys: list[str], source: str) -> tuple[bytes, ...]:
    kept = [key.strip() for key in keys if key.strip()]
    if any(len(key) < MIN_KEY_LENGTH for key in kept):
        raise UsageError(
            f"{source} holds a key of fewer than {MIN_KEY_LENGTH} characters; make one with "
            "`python3 -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )
    return tuple(digest(key.encode("utf-8", "surrogateescape")) for key in kept)


def digest(key: bytes) -> bytes:
    """Return the hash that is compared and counted in place of a key."""
    return hashlib.sha256(key).digest()


class Admission:
    """Decides which requests are admitted.

    Overload comes first, because it is cheapest: `refuse_overload` runs in the protocol, as soon as
    the head of a request is read. A task, a scope and a response for each request of a flood would
    take the processor from the requests that were accepted.

    Attributes:
        batcher: The queue of predictions, once the service has started.
        log: The request log, if there is one, once the service has started.
    """

    batcher: Batcher[Any, Any] | None = None
    log: RequestLog | None = None

    def __init__(self, settings: Settings) -> None:
        self.keys = Keys(settings)
        self._allow_anonymous = settings.allow_anonymous
        self._rate_limit: RateLimit | None = None
        if settings.rate_limit is not None:
            # BentoML's metrics folder: the workers of a service share it, and it is empty at start.
            folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
            path = Path(folder, "rate-limit.bin") if folder else None
            self._rate_limit = RateLimit(settings.rate_limit, path)
        self._admitted_unqueued = 0

    def check_key(
        self, headers: Mapping[bytes, bytes], client: Client
    ) -> tuple[bytes | None, str | None]:
        """Return the digest of a client's key, and why the client is not answered, if so."""
        sent = key_of(headers)
        key = self.keys.find(sent) if sent is not None else None
        if self.keys.are_set and key is None:
            return None, STATUSES[401].text if sent is None else KEY_NOT_ACCEPTED
        if not (self.keys.are_set or self._allow_anonymous or is_loopback(client)):
            return None, ONLY_LOCAL_CLIENTS
        return key, None

    def seconds_to_wait(self, key: bytes | None, client: Client) -> float:
        """Return 0 if the rate limit allows a request now, else the seconds until it does."""
        if self._rate_limit is None:
            return 0.0
        return self._rate_limit.wait(key or digest((client[0] if client else "").encode()))

    def refuse_overload(
        self, method: bytes, url: bytes, headers: Headers, client: Client
    ) -> tuple[Headers, bytes] | None:
        """Return the headers and body of a 503 for a prediction that the queue has no room for.

        None admits the request.
        """
        if self.batcher is None or method != b"POST" or url.partition(b"?")[0] != b"/predict":
            return None
        room = self.batcher.room
        # A client without the key that it needs gets its 401 later and takes no place in the queue.
        if room > 0 and self.check_key(dict(headers), client)[1] is not None:
            return None
        if self._admitted_unqueued < room:
            # Requests that arrive together are admitted before the first of them is queued, by a
            # task that runs in the next turn of the loop, right after `_settle`.
            self._admitted_unqueued += 1
            asyncio.get_running_loop().call_soon(self._settle)
            return None
        self.batcher.note_refusal()
        record = new_record({"client": client, "method": "POST", "path": "/predict"}, dict(headers))
        _OVERLOAD_COUNT.inc()
        if self.log:
            self.log.add({**record, "status": 503})
        return (*_OVERLOAD_HEADERS, (b"x-request-id", record["id"].encode())), _OVERLOAD_BODY

    def _settle(self) -> None:
        self._admitted_unqueued -= 1


# Made once: a flood of refusals costs as little as possible.
_OVERLOAD_BODY = status_body(503, QUEUE_FULL)
_OVERLOAD_HEADERS = (
    (b"content-type", b"application/json"),
    (b"content-length", str(len(_OVERLOAD_BODY)).encode()),
    (b"retry-after", str(RETRY_AFTER_SECONDS).encode()),
)
_OVERLOAD_COUNT = REQUESTS.labels(503)

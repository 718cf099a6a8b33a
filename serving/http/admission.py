"""Who may ask, how often, and what is refused before a task is made for it."""

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dimml.errors import UsageError
from serving.http.errors import HttpError
from serving.http.request_log import RequestLog, new_record
from serving.metrics import REQUESTS
from serving.settings import Settings

MIN_KEY_LENGTH = 16
RECHECK_SECONDS = 1.0
_SLOTS = 4096
_BURST_SECONDS = 1.0
"""What a key may ask at once: the requests of this long."""

Client = tuple[str, int] | None
Headers = Sequence[tuple[bytes, bytes]]
MayAsk = Callable[[Mapping[bytes, bytes], Client], bool]

_COUNT = REQUESTS.labels(HttpError.OVERLOADED.status)

logger = logging.getLogger("bentoml.dimml")


class Keys:
    """The API keys of the settings and of a file that is read again when it changes.

    Raises:
        UsageError: the file cannot be read, or a key is short.
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
        """Whether keys are asked for; an empty file asks for keys that nobody has."""
        return bool(self._fixed) or self._path is not None

    def policy(self, settings: Settings) -> str:
        """Who is answered, in words."""
        if self.are_set:
            return "API keys are asked for"
        if settings.allow_anonymous:
            return "everybody is answered (DIMML_ALLOW_ANONYMOUS)"
        return (
            "no API keys: only clients on this machine are answered; set DIMML_API_KEYS, or "
            "DIMML_ALLOW_ANONYMOUS=1 to answer everybody"
        )

    def find(self, key: bytes) -> bytes | None:
        """The digest of an accepted key; None for any other. Takes as long for every key."""
        self._refresh()
        given = digest(key)
        found = None
        for known in (*self._fixed, *self._from_file):
            if hmac.compare_digest(given, known):
                found = known
        return found

    def _refresh(self) -> None:
        if self._path is None or time.monotonic() - self._checked < RECHECK_SECONDS:
            return
        try:
            self._read(self._path)
        except UsageError as error:
            # A file that is being replaced must not lock everybody out.
            logger.error("the API keys stay as they were: %s", error.message)

    def _read(self, path: Path) -> None:
        self._checked = time.monotonic()
        try:
            found = path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp == self._stamp:
                return
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read DIMML_API_KEYS_FILE: {error}") from error
        self._stamp = stamp
        self._from_file = _digests([line.partition("#")[0] for line in lines], str(path))


def key_of(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key that a request carries: `Authorization: Bearer KEY` or `X-API-Key: KEY`."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    found = headers.get(b"x-api-key", b"").strip()
    return found or None


def is_loopback(client: tuple[str, int] | None) -> bool:
    """Whether a client is on this machine; one without an address (a Unix socket) is."""
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
    """Requests per second and key, counted over all workers of a service.

    The generic cell rate algorithm (ATM Forum, Traffic Management 4.0, 4.4.2): one time per key,
    kept in a file that the workers map into memory.

    Args:
        per_second: requests per second and key.
        path: the file; None where there is one process.
    """

    def __init__(self, per_second: float, path: Path | None) -> None:
        self._interval = 1 / per_second
        self._tolerance = max(_BURST_SECONDS, self._interval)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600) if path else None
        if self._file is None:
            self._times = mmap.mmap(-1, 8 * _SLOTS)
        else:
            os.ftruncate(self._file, 8 * _SLOTS)
            self._times = mmap.mmap(self._file, 8 * _SLOTS)

    def wait(self, key: bytes) -> float:
        """Seconds until a digest may ask again; 0 where it may now, which is then counted."""
        offset = 8 * (int.from_bytes(key[:8], "big") % _SLOTS)
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


class Shedder:
    """Answers for the application while its queue is full.

    Building a task, a scope and a response for each request of a flood would take the processor
    from those that were accepted; this takes a small part of that. While the queue is full it comes
    before keys and rate limits, which cost more.

    Args:
        log: where requests are logged, once there is one.
        may_ask: whether a client with these headers has the key that it needs. One that has not
            takes nobody's place.
    """

    def __init__(self, log: Callable[[], RequestLog | None], may_ask: MayAsk) -> None:
        self._log = log
        self._may_ask = may_ask
        self._admitted = 0

    def __call__(self, method: bytes, url: bytes, headers: Headers, client: Client) -> bytes | None:
        """Return the id of a request that is refused; None where the application answers."""
        if method != b"POST" or url.partition(b"?")[0] != b"/predict":
            return None
        if not self._is_full(headers, client):
            return None
        scope = {"client": client, "method": "POST", "path": "/predict"}
        record = new_record(scope, dict(headers))
        _COUNT.inc()
        if log := self._log():
            log.add({**record, "status": HttpError.OVERLOADED.status})
        return str(record["id"]).encode()

    def _is_full(self, headers: Headers, client: Client) -> bool:
        from bentoml import get_current_service

        service = get_current_service()
        if service is None:
            return False
        room = service.batcher.room
        if room > 0 and not self._may_ask(dict(headers), client):
            return False
        if self._admitted >= room:
            service.batcher.note_refusal()
            return True
        # What has come at once is admitted before the first of it is queued: that is done by its
        # task, which runs in the next turn of the loop, right after `_settle`.
        self._admitted += 1
        asyncio.get_running_loop().call_soon(self._settle)
        return False

    def _settle(self) -> None:
        self._admitted -= 1


def _digests(keys: list[str], source: str) -> tuple[bytes, ...]:
    kept = [key.strip() for key in keys if key.strip()]
    if any(len(key) < MIN_KEY_LENGTH for key in kept):
        raise UsageError(
            f"{source} holds a key of fewer than {MIN_KEY_LENGTH} characters; make one with "
            "`python3 -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )
    return tuple(digest(key.encode("utf-8", "surrogateescape")) for key in kept)


def digest(key: bytes) -> bytes:
    """What is compared and counted in place of a key."""
    return hashlib.sha256(key).digest()

"""Admission: API keys, the rate limit, and the refusal of predictions that would find no room."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import functools
import hashlib
import hmac
import ipaddress
import logging
import math
import mmap
import os
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from starlette.responses import Response

from dimml.errors import UsageError
from serving.http.errors import HttpError
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.batching import Batcher

MIN_KEY_LENGTH = 16
KEY_FILE_CHECK_SECONDS = 1.0
BURST_SECONDS = 1.0
"""A client may send the requests of this long at once."""

_RATE_SLOTS = 4096
_BASIC_CHALLENGE = 'Basic realm="dimml: an API key as the password", charset="UTF-8"'

Client: TypeAlias = tuple[str, int] | None
RawHeaders: TypeAlias = Sequence[tuple[bytes, bytes]]

logger = logging.getLogger("bentoml.dimml")


class Admission:
    """Decides which requests are answered.

    Attributes:
        batcher: The queue that predictions wait in, once the service has started.
    """

    def __init__(self, settings: Settings) -> None:
        self.batcher: Batcher[Any, Any] | None = None
        self._settings = settings
        self._keys = Keys(settings)
        self._rate_limit = _open_rate_limit(settings)
        self._admitted_this_turn = 0

    def refuse(self, headers: Mapping[bytes, bytes], client: Client) -> Response | None:
        """Return the response to a client without a key or over its rate, None to any other."""
        key = self._check_key(headers, client)
        if isinstance(key, HttpError):
            return key.response()
        if self._rate_limit is None:
            return None
        wait = self._rate_limit.wait(key or digest(client[0].encode() if client else b""))
        if wait <= 0:
            return None
        return HttpError.RATE_LIMITED.response(
            f"over {self._settings.rate_limit:g} requests per second; wait {wait:.1f} s",
            headers={"retry-after": str(math.ceil(wait))},
        )

    def refuse_page(
        self, headers: Mapping[bytes, bytes], client: Client, is_upload: bool
    ) -> Response | None:
        """Return the response to a client that may not see the page, None to any other.

        A browser asks for the key when it sees the challenge, and then sends the key as a password.
        The rate limit applies to uploads: a page needs many files, and its predictions are requests
        of their own.
        """
        if is_upload:
            return self.refuse(headers, client)
        key = self._check_key(headers, client)
        if not isinstance(key, HttpError):
            return None
        if key is HttpError.REMOTE_CLIENT:
            return key.response()
        text = f"{key.message}; in a browser, give the key as the password"
        return key.response(text, headers={"www-authenticate": _BASIC_CHALLENGE})

    def must_shed(self, headers: Mapping[bytes, bytes], client: Client) -> bool:
        """Return whether a prediction is refused because the queue has no room for it.

        A full queue comes before keys and the rate limit, whose checks cost more.
        """
        if self.batcher is None:
            return False
        room = self.batcher.room
        # A client without its key must not take the place of another; `refuse` answers it.
        if room > 0 and isinstance(self._check_key(headers, client), HttpError):
            return False
        if self._admitted_this_turn >= room:
            self.batcher.note_refusal()
            return True
        # All requests that one turn of the event loop reads are admitted before the first is
        # queued. The task that queues a request runs in the next turn, after `_end_turn`.
        self._admitted_this_turn += 1
        asyncio.get_running_loop().call_soon(self._end_turn)
        return False

    def _end_turn(self) -> None:
        self._admitted_this_turn -= 1

    def _check_key(
        self, headers: Mapping[bytes, bytes], client: Client
    ) -> bytes | HttpError | None:
        """Return the digest of a client's key, None without keys, or why the client is refused."""
        if not self._keys.are_set:
            is_allowed = self._settings.allow_anonymous or is_loopback(client)
            return None if is_allowed else HttpError.REMOTE_CLIENT
        key = key_of(headers)
        if key is None:
            return HttpError.KEY_MISSING
        return self._keys.find(key) or HttpError.KEY_REJECTED


class Keys:
    """The API keys of the settings and of a file that is read again when it changes.

    Raises:
        UsageError: If the file cannot be read or a key is too short.
    """

    def __init__(self, settings: Settings) -> None:
        self._fixed = _digests(settings.api_keys.get_secret_value().split(","), "DIMML_API_KEYS")
        self._path = settings.api_keys_file
        self._file_version: tuple[int, int, int] | None = None
        self._checked_at = 0.0
        self._from_file: tuple[bytes, ...] = ()
        if self._path:
            self._read(self._path)

    @property
    def are_set(self) -> bool:
        """Whether clients need a key; an empty key file refuses every client."""
        return bool(self._fixed) or self._path is not None

    def policy(self, settings: Settings) -> str:
        """Describe which clients are answered."""
        if self.are_set:
            return "clients need an API key"
        if settings.allow_anonymous:
            return "all clients are answered (DIMML_ALLOW_ANONYMOUS)"
        return (
            "no API keys: only clients on this machine are answered; set DIMML_API_KEYS, or "
            "DIMML_ALLOW_ANONYMOUS=1 to answer all clients"
        )

    def find(self, key: bytes) -> bytes | None:
        """Return the digest of an accepted key, in the same time for every key."""
        self._refresh()
        key_digest, match = digest(key), None
        for accepted in (*self._fixed, *self._from_file):
            if hmac.compare_digest(key_digest, accepted):
                match = accepted
        return match

    def _refresh(self) -> None:
        if self._path is None or time.monotonic() - self._checked_at < KEY_FILE_CHECK_SECONDS:
            return
        try:
            self._read(self._path)
        except UsageError as error:
            # A file that is being replaced must not lock out all clients.
            logger.error("the API keys are unchanged: %s", error.message)

    def _read(self, path: Path) -> None:
        self._checked_at = time.monotonic()
        try:
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
            if version == self._file_version:
                return
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read DIMML_API_KEYS_FILE: {error}") from error
        self._file_version = version
        self._from_file = _digests([line.partition("#")[0] for line in lines], str(path))


def key_of(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the key of a request, as a bearer token, a password or `X-API-Key: KEY`."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    if scheme.lower() == b"basic":
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(token).partition(b":")[2] or None
    return headers.get(b"x-api-key", b"").strip() or None


def is_loopback(client: Client) -> bool:
    """Return whether a client is on this machine, as a client of a Unix socket always is."""
    return not client or _is_loopback_host(client[0])


@functools.lru_cache(maxsize=1024)
def _is_loopback_host(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


class RateLimit:
    """Limits the requests per second of each key, over all workers of a service.

    The generic cell rate algorithm (ATM Forum, Traffic Management 4.0, 4.4.2) keeps one time per
    key. The workers map the file of these times into memory.

    Args:
        per_second: Requests per second and key.
        path: The file of times; None for a single process.
    """

    def __init__(self, per_second: float, path: Path | None) -> None:
        self._interval = 1 / per_second
        self._tolerance = max(BURST_SECONDS, self._interval)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600) if path else None
        if self._file is not None:
            os.ftruncate(self._file, 8 * _RATE_SLOTS)
        self._times = mmap.mmap(-1 if self._file is None else self._file, 8 * _RATE_SLOTS)

    def wait(self, key: bytes) -> float:
        """Count a request of a key's digest, or return the seconds until the next is allowed."""
        offset = 8 * (int.from_bytes(key[:8], "big") % _RATE_SLOTS)
        self._lock(True)
        try:
            now = time.monotonic()
            due = max(now, *struct.unpack_from("d", self._times, offset))
            excess: float = due + self._interval - now - self._tolerance
            # Rounding must not refuse a request that arrives exactly in time.
            if excess > 1e-9:
                return excess
            struct.pack_into("d", self._times, offset, due + self._interval)
            return 0.0
        finally:
            self._lock(False)

    def _lock(self, locked: bool) -> None:
        if self._file is not None:
            # Windows has no `fcntl`, and can do without it where no rate is limited.
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX if locked else fcntl.LOCK_UN)


def _open_rate_limit(settings: Settings) -> RateLimit | None:
    if settings.rate_limit is None:
        return None
    # The workers of one service share BentoML's metrics folder, which is emptied at each start.
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return RateLimit(settings.rate_limit, Path(folder, "rate-limit.bin") if folder else None)


def _digests(keys: list[str], source: str) -> tuple[bytes, ...]:
    keys = [key.strip() for key in keys if key.strip()]
    if any(len(key) < MIN_KEY_LENGTH for key in keys):
        raise UsageError(
            f"{source} holds a key of fewer than {MIN_KEY_LENGTH} characters; make one with "
            "`python3 -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )
    return tuple(digest(key.encode("utf-8", "surrogateescape")) for key in keys)


def digest(key: bytes) -> bytes:
    """Return the digest that stands for a key wherever keys are compared or counted."""
    return hashlib.sha256(key).digest()

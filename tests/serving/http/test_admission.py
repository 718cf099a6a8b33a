"""API keys and the rate limit, without a service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import serving.http.admission
from dimml.errors import UsageError
from dimml.machine import SOURCE_ROOT
from serving.http.admission import Keys, RateLimit, digest, is_loopback, key_of
from serving.settings import Settings

KEY, OTHER = b"k" * 16, b"o" * 40


def make_keys(**settings: Any) -> Keys:
    return Keys(Settings(**settings))


class TestKeys:
    def test_no_keys_are_required_by_default(self) -> None:
        assert not make_keys().are_set

    def test_keys_are_separated_by_commas(self) -> None:
        keys = make_keys(api_keys=f" {KEY.decode()} ,{OTHER.decode()},")
        assert keys.are_set
        assert (keys.find(KEY), keys.find(OTHER)) == (digest(KEY), digest(OTHER))
        assert keys.find(KEY + b"k") is None
        assert keys.find(b"") is None

    def test_short_key_is_rejected(self) -> None:
        with pytest.raises(UsageError, match="fewer than 16 characters"):
            make_keys(api_keys="secret")

    def test_key_file_has_a_key_per_line_and_comments(self, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        path.write_text(f"# of the shop\n{KEY.decode()}  # until May\n\n")
        keys = make_keys(api_keys_file=path)
        assert keys.find(KEY)
        assert keys.find(OTHER) is None

    def test_empty_key_file_accepts_no_key(self, tmp_path: Path) -> None:
        (tmp_path / "keys").touch()
        keys = make_keys(api_keys_file=tmp_path / "keys")
        assert keys.are_set
        assert keys.find(b"") is None

    def test_missing_key_file_is_rejected(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="DIMML_API_KEYS_FILE"):
            make_keys(api_keys_file=tmp_path / "keys")

    def test_changed_key_file_is_read_again_and_a_deleted_file_is_ignored(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(serving.http.admission, "KEY_FILE_CHECK_SECONDS", 0.0)
        path = tmp_path / "keys"
        path.write_text(KEY.decode())
        keys = make_keys(api_keys_file=path)
        path.write_text(OTHER.decode())
        assert (keys.find(KEY), keys.find(OTHER)) == (None, digest(OTHER))
        path.write_text("short")
        assert keys.find(OTHER)
        path.unlink()
        assert keys.find(OTHER)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({b"authorization": b"Bearer " + KEY}, KEY),
        ({b"authorization": b"bearer   " + KEY}, KEY),
        ({b"x-api-key": KEY}, KEY),
        ({b"x-api-key": b""}, None),
        ({b"authorization": b"Basic " + KEY}, None),
        ({b"authorization": b"Bearer"}, None),
    ],
)
def test_key_is_read_from_either_header(headers: dict[bytes, bytes], key: bytes | None) -> None:
    assert key_of(headers) == key


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("localhost.example.org", False),
    ],
)
def test_loopback_address_is_local(host: str, local: bool) -> None:
    assert is_loopback((host, 1)) == local


def test_unix_socket_is_local() -> None:
    assert is_loopback(None)


class TestRateLimit:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [1000.0]
        monkeypatch.setattr("serving.http.admission.time.monotonic", lambda: now[0])
        return now

    def test_rate_limit_allows_a_burst_of_one_second(self, clock: list[float]) -> None:
        limit = RateLimit(10, None)
        assert [limit.wait(digest(KEY)) for _ in range(10)] == [0.0] * 10
        assert limit.wait(digest(KEY)) == pytest.approx(0.1)
        clock[0] += 0.1
        assert limit.wait(digest(KEY)) == 0.0
        assert limit.wait(digest(KEY)) > 0
        clock[0] += 60
        assert sum(limit.wait(digest(KEY)) == 0 for _ in range(20)) == 10

    def test_rate_limit_may_be_less_than_one_per_second(self, clock: list[float]) -> None:
        limit = RateLimit(0.5, None)
        assert limit.wait(digest(KEY)) == 0
        assert limit.wait(digest(KEY)) == pytest.approx(2.0)

    def test_each_key_has_its_own_rate(self, clock: list[float]) -> None:
        limit = RateLimit(1, None)
        assert [limit.wait(digest(key)) for key in (KEY, OTHER)] == [0.0, 0.0]
        assert limit.wait(digest(OTHER)) > 0

    def test_rate_limit_is_shared_by_all_processes(self, tmp_path: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from serving.http.admission import *\n"
            "limit = RateLimit(20, Path(sys.argv[1]))\n"
            "print(sum(limit.wait(digest(b'key')) == 0 for _ in range(100)))"
        )
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(tmp_path / "limit")],
                env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        allowed = sum(int(process.communicate(timeout=60)[0]) for process in processes)
        # A burst of 20, and 20 a second for up to two seconds of running.
        assert 20 <= allowed <= 20 + 20 * 2

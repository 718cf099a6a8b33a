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


def keys(**settings: Any) -> Keys:
    return Keys(Settings(**settings))


class TestKeys:
    def test_none_are_asked_for_by_default(self) -> None:
        assert not keys().are_set

    def test_several_are_separated_by_commas(self) -> None:
        found = keys(api_keys=f" {KEY.decode()} ,{OTHER.decode()},")
        assert found.are_set
        assert (found.find(KEY), found.find(OTHER)) == (digest(KEY), digest(OTHER))
        assert found.find(KEY + b"k") is None
        assert found.find(b"") is None

    def test_short_ones_are_refused(self) -> None:
        with pytest.raises(UsageError, match="fewer than 16 characters"):
            keys(api_keys="secret")

    def test_a_file_has_one_a_line_and_comments(self, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        path.write_text(f"# of the shop\n{KEY.decode()}  # until May\n\n")
        found = keys(api_keys_file=path)
        assert found.find(KEY)
        assert found.find(OTHER) is None

    def test_an_empty_file_lets_nobody_in(self, tmp_path: Path) -> None:
        (tmp_path / "keys").touch()
        found = keys(api_keys_file=tmp_path / "keys")
        assert found.are_set
        assert found.find(b"") is None

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="DIMML_API_KEYS_FILE"):
            keys(api_keys_file=tmp_path / "keys")

    def test_a_changed_file_is_read_again_and_a_vanished_one_changes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(serving.http.admission, "KEY_FILE_CHECK_SECONDS", 0.0)
        path = tmp_path / "keys"
        path.write_text(KEY.decode())
        found = keys(api_keys_file=path)
        path.write_text(OTHER.decode())
        assert (found.find(KEY), found.find(OTHER)) == (None, digest(OTHER))
        path.write_text("short")
        assert found.find(OTHER)
        path.unlink()
        assert found.find(OTHER)


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
def test_where_a_request_carries_its_key(headers: dict[bytes, bytes], key: bytes | None) -> None:
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
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback((host, 1)) == local


def test_a_unix_socket_is_local() -> None:
    assert is_loopback(None)


class TestRateLimit:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [1000.0]
        monkeypatch.setattr("serving.http.admission.time.monotonic", lambda: now[0])
        return now

    def test_a_burst_of_a_second_then_the_rate(self, clock: list[float]) -> None:
        limit = RateLimit(10, None)
        assert [limit.wait(digest(KEY)) for _ in range(10)] == [0.0] * 10
        assert limit.wait(digest(KEY)) == pytest.approx(0.1)
        clock[0] += 0.1
        assert limit.wait(digest(KEY)) == 0.0
        assert limit.wait(digest(KEY)) > 0
        clock[0] += 60
        assert sum(limit.wait(digest(KEY)) == 0 for _ in range(20)) == 10

    def test_less_than_one_a_second(self, clock: list[float]) -> None:
        limit = RateLimit(0.5, None)
        assert limit.wait(digest(KEY)) == 0
        assert limit.wait(digest(KEY)) == pytest.approx(2.0)

    def test_each_key_has_its_own(self, clock: list[float]) -> None:
        limit = RateLimit(1, None)
        assert [limit.wait(digest(key)) for key in (KEY, OTHER)] == [0.0, 0.0]
        assert limit.wait(digest(OTHER)) > 0

    def test_it_holds_over_all_processes(self, tmp_path: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from serving.http.admission import *\n"
            "limit = RateLimit(20, Path(sys.argv[1]))\n"
            "print(sum(limit.wait(digest(b'key')) == 0 for _ in range(100)))"
        )
        started = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(tmp_path / "limit")],
                env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        allowed = sum(int(process.communicate(timeout=60)[0]) for process in started)
        assert 20 <= allowed <= 20 + 20 * 2

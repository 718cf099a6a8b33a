from __future__ import annotations

from collections.abc import Callable

import pytest

from dimml.cli import main


@pytest.fixture
def dimml(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str]]:
    """Return a function that calls the command line and returns its exit code and its output."""

    def call(*arguments: object) -> tuple[object, str]:
        monkeypatch.setattr("sys.argv", ["dimml", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        printed = capsys.readouterr()
        return exited.value.code, printed.out + printed.err

    return call

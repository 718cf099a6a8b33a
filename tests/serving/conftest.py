from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from starlette.testclient import TestClient

from serving.settings import ROOT, get_settings

OpenClient = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture(scope="session")
def open_client(tmp_path_factory: pytest.TempPathFactory) -> OpenClient:
    """Opens a client of the service in this process; one at a time, as BentoML has it."""

    @contextmanager
    def opened(bundle: Path, **settings: object) -> Iterator[TestClient]:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv("DIMML_BUNDLE", str(bundle))
            monkeypatch.setenv("DIMML_PROVIDERS", "cpu")
            for name, value in settings.items():
                monkeypatch.setenv(f"DIMML_{name.upper()}", str(value))
            monkeypatch.setenv("BENTOML_HOME", str(tmp_path_factory.mktemp("bentoml")))
            get_settings.cache_clear()
            _forget_bentoml_metrics()
            from serving.service import Dimml

            service: Any = Dimml
            try:
                with TestClient(service.to_asgi()) as client:
                    yield client
            finally:
                get_settings.cache_clear()

    return opened


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python programs from a folder of no importance, and stops them after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=30)


def _forget_bentoml_metrics() -> None:
    # BentoML registers its metrics for each application, and a process has one registry.
    registry = prometheus_client.REGISTRY
    for collector, names in list(registry._collector_to_names.items()):
        if any(name.startswith("bentoml") for name in names):
            registry.unregister(collector)

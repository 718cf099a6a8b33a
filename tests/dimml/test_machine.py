from __future__ import annotations

import os
from pathlib import Path

import pytest

from dimml import machine
from dimml.machine import available_cores


class TestAvailableCores:
    @pytest.mark.parametrize(
        ("affinity", "quota", "cores"),
        [
            (8, None, 8),
            (8, "max 100000", 8),
            (8, "200000 100000", 2),
            (8, "250000 100000", 2),
            (8, "50000 100000", 1),
            (2, "400000 100000", 2),
            (8, "", 8),
            (8, "garbage", 8),
        ],
    )
    def test_available_cores_are_the_minimum_of_affinity_and_quota(
        self,
        affinity: int,
        quota: str | None,
        cores: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if quota is not None:
            (tmp_path / "cpu.max").write_text(quota + "\n")
        monkeypatch.setattr(machine, "CPU_QUOTA", tmp_path / "cpu.max")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
        assert available_cores() == cores

    @pytest.mark.parametrize(("count", "cores"), [(6, 6), (None, 1)])
    def test_available_cores_without_affinity_are_all_cores(
        self, count: int | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machine, "CPU_QUOTA", tmp_path / "none")
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: count)
        assert available_cores() == cores

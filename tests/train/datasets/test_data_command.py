"""The arguments of `dimml data`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Dimml
from train.datasets import DATASETS, NEEDS_ROOT


def test_data_sets_that_need_a_root_exist() -> None:
    assert set(DATASETS) >= NEEDS_ROOT


def test_help_shows_an_example_of_each_data_set(dimml: Dimml) -> None:
    code, printed, _ = dimml("data", "--help")
    assert code == 0
    assert all(f"dimml data {name} " in printed for name in DATASETS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["letters", "out"], "no data set 'letters'; choose one of: digits, avmnist"),
        (["avmnist"], "takes ROOT and OUT, but got no folder"),
        (["avmnist", "out"], "takes ROOT and OUT, but got out; call `dimml data avmnist ROOT OUT`"),
        (["avmnist", "a", "b", "c"], "takes ROOT and OUT, but got a b c"),
        (["avmnist", "nowhere", "out"], "nowhere is not a folder"),
        (["digits"], "digits takes OUT, but got no folder; call `dimml data digits OUT`"),
        (["digits", "root", "out"], "digits takes OUT, but got root out"),
    ],
)
def test_wrong_arguments_exit_with_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dimml: Dimml,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, printed = dimml("data", *words)
    assert code == 2
    assert message in printed
    assert list(tmp_path.iterdir()) == []

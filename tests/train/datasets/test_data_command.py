"""The arguments of `dimml data`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Dimml
from train.datasets import DATASETS, NEEDS_ROOT, OPTIONS


def test_data_sets_that_need_a_root_exist() -> None:
    assert set(DATASETS) >= NEEDS_ROOT >= set(OPTIONS.values())


def test_help_shows_an_example_of_each_data_set(dimml: Dimml) -> None:
    code, printed, _ = dimml("data", "--help")
    assert code == 0
    assert all(f"dimml data {name} " in printed for name in DATASETS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["letters", "out"], "no data set 'letters'; choose one of: digits, avmnist, crema_d, "),
        (["avmnist"], "takes ROOT and OUT, but got no folder"),
        (["avmnist", "out"], "takes ROOT and OUT, but got out; call `dimml data avmnist ROOT OUT`"),
        (["avmnist", "a", "b", "c"], "takes ROOT and OUT, but got a b c"),
        (["avmnist", "nowhere", "out"], "nowhere is not a folder"),
        (["digits"], "digits takes OUT, but got no folder; call `dimml data digits OUT`"),
        (["digits", "root", "out"], "digits takes OUT, but got root out"),
        (["ave", "a", "b", "--split", "2"], "--split is an option of ucf101; ave does not take it"),
        (["digits", "out", "--split-csv", "a"], "--split-csv is an option of crema_d; digits does"),
        (["ucf101", "a", "b", "--split", "4"], "--split 4: UCF101 has the splits 1, 2 and 3"),
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

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dimml.errors import ManifestError
from dimml.table import SplitRule, TableLayout, TableSource, read_rows
from dimml.table.cells import SPLITS
from dimml.table.splitting import assign_splits

RULE = SplitRule(validation=0.15, test=0.2)
RANDOM = np.random.default_rng(0)
LABELS: list[str | None] = [
    str(label) for label in RANDOM.choice(5, 1_000, p=[0.5, 0.3, 0.1, 0.06, 0.04])
]


def test_splits_have_their_shares_of_every_label() -> None:
    splits = assign_splits(LABELS, None, RULE)
    assert Counter(splits) == {"train": 650, "validation": 150, "test": 200}
    for label, count in Counter(LABELS).items():
        counts = Counter(s for s, other in zip(splits, LABELS, strict=True) if other == label)
        assert abs(counts["test"] - 0.2 * count) <= 2
        assert abs(counts["validation"] - 0.15 * count) <= 2


def test_seed_decides_the_assignment() -> None:
    assert assign_splits(LABELS, None, RULE) == assign_splits(LABELS, None, RULE)
    other = SplitRule(validation=0.15, test=0.2, seed=1)
    assert assign_splits(LABELS, None, RULE) != assign_splits(LABELS, None, other)


def test_every_label_has_a_row_in_the_train_split() -> None:
    rare: list[str | None] = ["a", "b", "c", "c", *"ddd"]
    splits = assign_splits(rare, None, SplitRule(validation=0.3, test=0.3))
    assert {label for label, split in zip(rare, splits, strict=True) if split == "train"} == {
        *"abcd"
    }
    assert set(splits) == {"train", "validation", "test"}


def test_rows_without_a_label_are_in_the_train_split() -> None:
    splits = assign_splits([None] * 5 + LABELS, None, RULE)
    assert splits[:5] == ["train"] * 5


def test_no_test_split_is_made_for_a_share_of_0() -> None:
    assert Counter(assign_splits(LABELS, None, SplitRule(validation=0.1, test=0))) == {
        "train": 900,
        "validation": 100,
    }


def test_rows_of_a_group_share_a_split() -> None:
    groups: list[str | None] = [f"speaker {n}" for n in RANDOM.integers(0, 60, len(LABELS))]
    groups[:3] = [None, None, None]
    splits = assign_splits(LABELS, groups, RULE)
    of_group: dict[str | None, set[str]] = {}
    for group, split in zip(groups, splits, strict=True):
        of_group.setdefault(group, set()).add(split)
    assert all(len(s) == 1 for group, s in of_group.items() if group is not None)
    shares = Counter(splits)
    assert shares["validation"] == pytest.approx(150, abs=25)
    assert shares["test"] == pytest.approx(200, abs=25)
    common = Counter(s for s, label in zip(splits, LABELS, strict=True) if label == "0")
    assert common["test"] / common.total() == pytest.approx(0.2, abs=0.06)


def test_empty_table_has_no_splits() -> None:
    assert assign_splits([], None, RULE) == []


def test_rule_of_a_layout_stands_for_the_split_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("label,speaker,text\n" + "".join(f"{n % 2},{n % 7},{n}\n" for n in range(70)))
    layout = TableLayout(rule=SplitRule(validation=0.3, test=0.2, by="speaker"))
    source = TableSource(path, {"text": "text"}, layout)
    ids = [{int(row.id) for row in read_rows(source, split)} for split in SPLITS]
    assert set().union(*ids) == set(range(70))
    assert all(len({n % 7 for n in rows}) * 10 == len(rows) > 0 for rows in ids)
    assert [row.split for row in read_rows(source)][:2] != [None, None]


def test_rule_by_a_missing_column_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("label,text\na,b\n")
    layout = TableLayout(rule=SplitRule(validation=0.3, test=0.2, by="speaker"))
    with pytest.raises(
        ManifestError,
        match=r"no column for speaker; .*; the train split needs it",
    ):
        read_rows(TableSource(path, {"text": "text"}, layout), "train")

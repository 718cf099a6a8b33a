"""Assign the rows of a table without a split column to splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dimml.table.cells import SPLITS


@dataclass(frozen=True)
class SplitRule:
    """How rows are assigned to splits.

    Attributes:
        validation: Share of the rows in the validation split, 0..1.
        test: Share of the rows in the test split.
        by: Column whose equal values stay in one split, such as a speaker; None for single rows.
        seed: Seed of the assignment, which also depends on the labels and their order.
    """

    validation: float
    test: float
    by: str | None = None
    seed: int = 0


def assign_splits(
    labels: Sequence[str | None], groups: Sequence[str | None] | None, rule: SplitRule
) -> list[str]:
    """Return the split of each row, at random with about equal shares of each label.

    A row without a label is in the train split, and so is one row of each label, because a
    classifier cannot learn a label that only other splits have. With groups, neither is certain.

    Args:
        labels: The label of each row.
        groups: The group of each row, of which None is a group of its own; None for no groups.
        rule: The shares and the seed.
    """
    random = np.random.default_rng(rule.seed)
    if groups is None:
        assigned = _assign_rows(labels, rule, random)
    else:
        assigned = _assign_groups(labels, groups, rule, random)
    return [SPLITS[number] for number in assigned.tolist()]


def _assign_rows(
    labels: Sequence[str | None], rule: SplitRule, random: np.random.Generator
) -> np.ndarray:
    """Sample systematically: sorted by label, every row at a multiple of 1 / share is drawn."""
    assigned = np.zeros(len(labels), np.int64)
    rows_of: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        if label is not None:
            rows_of.setdefault(label, []).append(row)
    shuffled = [random.permutation(rows_of[label])[1:] for label in sorted(rows_of)]
    rows = np.concatenate(shuffled) if shuffled else np.empty(0, np.int64)
    # The rows that stay in the train split are made up for by the others.
    scale = len(rows) and (len(rows) + len(rows_of)) / len(rows)
    test = _every(len(rows), rule.test * scale, random.random())
    assigned[rows[test]] = 2
    rows = rows[~test]
    rest = rule.validation * scale / max(1e-9, 1 - rule.test * scale)
    assigned[rows[_every(len(rows), rest, random.random())]] = 1
    return assigned


def _every(count: int, share: float, start: float) -> np.ndarray:
    """Return bool [count], in which `share` of the entries are true at equal distances."""
    steps = np.floor((np.arange(count + 1) + start) * min(1.0, share))
    chosen: np.ndarray = np.diff(steps) > 0
    return chosen


def _assign_groups(
    labels: Sequence[str | None],
    groups: Sequence[str | None],
    rule: SplitRule,
    random: np.random.Generator,
) -> np.ndarray:
    """Give each group, the largest first, to the split that lacks most of its labels."""
    keys = [(row,) if group is None else group for row, group in enumerate(groups)]
    group_of = np.unique([repr(key) for key in keys], return_inverse=True)[1]
    label_of = np.unique([label or "" for label in labels], return_inverse=True)[1]
    sizes, totals = np.bincount(group_of), np.bincount(label_of)
    rows_of = np.split(np.argsort(group_of, kind="stable"), np.cumsum(sizes)[:-1])
    shares = np.array([1 - rule.validation - rule.test, rule.validation, rule.test])
    missing = shares[:, None] * totals
    order = random.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    split_of = np.zeros(len(sizes), np.int64)
    for group in order:
        # A table of all groups and labels would take gigabytes for ten thousand of each.
        counts = np.bincount(label_of[rows_of[group]], minlength=len(totals)).astype(float)
        split_of[group] = np.argmax(missing @ counts)
        missing[split_of[group]] -= counts
    split: np.ndarray = split_of[group_of]
    return split

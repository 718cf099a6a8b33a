"""Evaluation of a bundle on every subset of its modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score

from dimml.bundle import Conformal
from dimml.machine import available_cores
from dimml.predictor import Predictor
from dimml.progress import print_status
from dimml.table import Row, TableSource
from train import markdown
from train.conformal import uncertified_text
from train.data.splits import (
    missing_modalities,
    no_readable_row,
    read_split,
    report_unreadable,
)
from train.metrics import scores
from train.shown_subsets import selection_note, shown_subsets
from train.split_answers import SplitAnswers, answer_subsets

ALL = "all"
"""The split that has every row."""


@dataclass(frozen=True)
class Evaluation:
    """A bundle, the rows of a split, and the bundle's answers to them."""

    predictor: Predictor
    split: str
    rows: Sequence[Row]
    answers: SplitAnswers

    def document(self) -> dict[str, Any]:
        """Return the document of `evaluation.json`."""
        bundle = self.predictor.bundle
        conformal = bundle.manifest.conformal
        return {
            "split": self.split,
            "samples": len(self.rows),
            "unreadable": len(self.answers.problems),
            "bundle": bundle.id,
            "prediction_sets": conformal
            and {"coverage": conformal.coverage, "uncertified": conformal.uncertified},
            "subsets": {
                name: measure(one.probabilities, self.answers.labels[one.having])
                for name, one in self.answers.subsets.items()
            },
        }


def evaluate_bundle(path: Path, table: Path, split: str) -> dict[str, Any]:
    """Return the document of `evaluation.json` for a split, see `answer_split`."""
    return answer_split(path, table, split).document()


def answer_split(path: Path, table: Path, split: str) -> Evaluation:
    """Answer each subset of modalities with a bundle, over the rows that have the subset.

    A cell that cannot be read counts as absent, and is reported.

    Args:
        path: Folder of the bundle.
        table: A table, or a folder or a pattern of tables, with the columns that the bundle was
            trained with.
        split: Name of the split; `all` for every row.

    Raises:
        ManifestError: If the split cannot be read, no row of it can, or the bundle does not know
            the label of a row.
    """
    predictor = Predictor.load(path, threads=available_cores())
    manifest = predictor.bundle.manifest
    kinds = {name: spec.kind for name, spec in manifest.modalities.items()}
    source = TableSource(table, kinds, manifest.table)
    rows = read_split(source, None if split == ALL else split)
    if missing := missing_modalities(source):
        print_status(f"warning: {missing.message(table)}; these modalities count as absent")
    answers = answer_subsets(predictor, rows, f"evaluating {split}")
    report_unreadable(split, answers.problems)
    if not len(answers.rows):
        raise no_readable_row(split, answers.problems[0])
    return Evaluation(predictor, split, rows, answers)


def subset_table(report: dict[str, Any]) -> str:
    """Return the report as a Markdown table, and the subsets whose coverage is not certified.

    The table of many modalities has a selection of the subsets, see `shown_subsets`.
    """
    unreadable = f", {report['unreadable']} unreadable cells" if report["unreadable"] else ""
    head = f"{report['bundle']}, {report['split']} split, {report['samples']} samples{unreadable}"
    figures = ("accuracy", "macro_f1", "nll", "ece")
    subsets = report["subsets"]
    shown = {title: subsets[name] for title, name in shown_subsets(subsets).items()}
    rows = [
        (title, str(row["samples"]), *(f"{row[figure]:.4f}" for figure in figures))
        for title, row in shown.items()
    ]
    selected = selection_note(subsets, "`evaluation.json`")
    if selected:
        means = (np.mean([row[figure] for row in subsets.values()]) for figure in figures)
        rows.append(("mean", markdown.NOT_MEASURED, *(f"{mean:.4f}" for mean in means)))
    titles = ("subset", "samples", "accuracy", "macro-F1", "NLL", "ECE")
    sets = report["prediction_sets"]
    note = uncertified_text(sets and Conformal.model_validate(sets))
    text = f"{head}\n\n{markdown.table(titles, rows, numbers=False)}"
    if selected:
        text += f"\n\n{selected}"
    return f"{text}\n\nNot certified: {note}." if note else text


def measure(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return accuracy, macro-F1, NLL (nats) and ECE (15 equal-width bins of confidence).

    The macro-F1 leaves out a class that no sample has and no answer names.

    Args:
        probabilities: [N, classes].
        labels: int64 [N], the true classes.
    """
    answers, truth = torch.from_numpy(probabilities), torch.from_numpy(labels)
    figures = scores(answers, truth)
    # The F1 of torchmetrics takes a matrix of classes * classes.
    macro_f1 = f1_score(labels, probabilities.argmax(axis=1), average="macro")
    accuracy = figures.pop("accuracy")
    return {"samples": len(labels), "accuracy": accuracy, "macro_f1": float(macro_f1), **figures}

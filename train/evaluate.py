"""Evaluation of a bundle on every subset of its modalities."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

from dimml.bundle import Bundle
from dimml.errors import InputError, ManifestError
from dimml.machine import available_cores
from dimml.outputs import PreparedSample
from dimml.predictor import BATCH_SIZE, Predictor
from dimml.progress import print_status, track
from dimml.samples import is_absent, subset_name, subsets
from dimml.table import Row, column_names, missing_columns
from train.data.splits import read_split
from train.metrics import scores


def evaluate_bundle(path: Path, manifest: Path, split: str) -> dict[str, Any]:
    """Accuracy, macro-F1, NLL and ECE per subset, over the rows that have at least the subset.

    A cell that cannot be read counts as absent, and is reported.

    Returns:
        The document of `evaluation.json`.

    Raises:
        ManifestError: the split cannot be read, none of its rows can, or one has a label that the
            bundle does not know.
    """
    predictor = Predictor.load(path, threads=available_cores())
    kinds = {name: spec.kind for name, spec in predictor.bundle.manifest.modalities.items()}
    rows = read_split(manifest, kinds, split)
    if missing := missing_columns(column_names(manifest), kinds):
        print_status(f"warning: {missing.message(manifest)}; what has no column counts as absent")
    found, problems = _answers(predictor, rows, f"evaluating {split}")
    if problems:
        count, first = len(problems), problems[0]
        print_status(f"{split}: {count} unreadable cells count as absent; the first: {first}")
    if not any(found.values()):
        raise ManifestError(f"no row of the {split} split can be read; the first: {problems[0]}")
    return {
        "split": split,
        "samples": len(rows),
        "unreadable": len(problems),
        "bundle": predictor.bundle.id,
        "subsets": {name: measure(pairs) for name, pairs in found.items() if pairs},
    }


def subset_answers(
    predictor: Predictor, rows: Sequence[Row], description: str
) -> dict[str, list[tuple[list[float], int]]]:
    """Subset name to what the predictor says of the rows that have at least the subset.

    Args:
        predictor: who answers.
        rows: labelled; a cell that cannot be read counts as absent.
        description: of the work, for its progress.

    Returns:
        Per row, in order: probabilities [classes], and the true class.

    Raises:
        ManifestError: a row has a label that the bundle does not know.
    """
    return _answers(predictor, rows, description)[0]


def _answers(
    predictor: Predictor, rows: Sequence[Row], description: str
) -> tuple[dict[str, list[tuple[list[float], int]]], list[str]]:
    """What `subset_answers` returns, and a line per cell that cannot be read."""
    index = {label: number for number, label in enumerate(predictor.labels)}
    if unknown := sorted({str(row.label) for row in rows} - set(index)):
        raise ManifestError(
            f"the rows have labels that the bundle does not know: {unknown[:5]}; it knows "
            f"{', '.join(index)}"
        )
    found: dict[str, list[tuple[list[float], int]]] = {}
    problems: list[str] = []
    tracked = track(rows, description)
    while block := list(islice(tracked, BATCH_SIZE)):
        batch = []
        for row in block:
            item = predictor.prepare(row.sample, "absent")
            problems += _unreadable(row, item)
            if isinstance(item, PreparedSample):
                batch.append((item, index[str(row.label)]))
        for subset in subsets(list(predictor.kinds)):
            kept = [(_only(i, subset), y) for i, y in batch if set(subset) <= set(i.arrays)]
            answers = predictor.predict_prepared([item for item, _ in kept])
            found.setdefault(subset_name(subset), []).extend(
                (list(a.probabilities.values()), y)
                for a, (_, y) in zip(answers, kept, strict=True)
                if not isinstance(a, InputError)
            )
    return found, problems


def _unreadable(row: Row, item: PreparedSample | InputError) -> list[str]:
    given = [name for name, value in row.sample.items() if not is_absent(value)]
    if isinstance(item, InputError):
        return [f"{row.id}: {item}" for _ in given]
    return [
        f"{row.id}: {name}: {item.warnings[name][0]}" for name in given if name not in item.arrays
    ]


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    unreadable = f", {report['unreadable']} unreadable cells" if report["unreadable"] else ""
    lines = [
        f"{report['bundle']}, {report['split']} split, {report['samples']} samples{unreadable}",
        "",
        "| subset | samples | accuracy | macro-F1 | NLL | ECE |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in report["subsets"].items():
        lines.append(
            f"| {name} | {row['samples']} | {row['accuracy']:.4f} | {row['macro_f1']:.4f} "
            f"| {row['nll']:.4f} | {row['ece']:.4f} |"
        )
    return "\n".join(lines)


def model_card(path: Path, report: dict[str, Any]) -> str:
    """The bundle's README.md."""
    bundle = Bundle.load(path)
    manifest = bundle.manifest
    modalities = "\n".join(
        f"- `{n}`: {s.kind}, `{s.encoder}`" for n, s in manifest.modalities.items()
    )
    return (
        f"# {bundle.id}\n\nMade {manifest.created} by dimml, in {manifest.precision}. Answers for "
        f"any non-empty subset of its modalities with one of {len(manifest.labels)} labels: "
        f"{', '.join(manifest.labels)}."
        f"\n\n## Modalities\n\n{modalities}\n\n## Evaluation\n\n{table(report)}\n"
    )


def measure(pairs: list[tuple[list[float], int]]) -> dict[str, Any]:
    """Accuracy, macro-F1, NLL (nats) and ECE (15 equal-width bins of confidence).

    A class that is neither true nor predicted of any sample takes no part in the macro-F1.

    Args:
        pairs: probabilities [classes] and the true class, per sample.
    """
    probabilities: Tensor = torch.tensor([p for p, _ in pairs])
    labels = torch.tensor([y for _, y in pairs])
    classes = probabilities.shape[1]
    found = scores(probabilities, labels)
    return {
        "samples": len(pairs),
        "accuracy": found["accuracy"],
        "macro_f1": float(multiclass_f1_score(probabilities, labels, classes, average="macro")),
        "nll": found["nll"],
        "ece": found["ece"],
    }


def _only(item: PreparedSample, subset: Sequence[str]) -> PreparedSample:
    return PreparedSample({name: item.arrays[name] for name in subset}, {})

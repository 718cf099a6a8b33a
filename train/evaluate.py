"""Evaluation of a bundle on every subset of its modalities."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

from dimml.bundle import Bundle, Conformal
from dimml.errors import InputError, ManifestError, shorten
from dimml.machine import available_cores
from dimml.outputs import PreparedSample
from dimml.predictor import BATCH_SIZE, Predictor
from dimml.progress import print_status, track
from dimml.samples import is_absent, subset_name, subsets
from dimml.table import Row, TableSource
from train import markdown
from train.conformal import uncertified_text
from train.data.splits import missing_modalities, read_split, report_unreadable
from train.metrics import scores

_SHOWN_LABELS = 20
ALL = "all"
"""The split that has every row."""


def evaluate_bundle(path: Path, table: Path, split: str) -> dict[str, Any]:
    """Measure a bundle on every subset of its modalities, over the rows that have the subset.

    A cell that cannot be read counts as absent, and is reported.

    Args:
        path: Folder of the bundle.
        table: A table, or a folder or a pattern of tables, with the columns that the bundle was
            trained with.
        split: Name of the split; `all` for every row.

    Returns:
        The document of `evaluation.json`.

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
    answers, problems = answer_subsets(predictor, rows, f"evaluating {split}")
    report_unreadable(split, problems)
    if not any(answers.values()):
        raise ManifestError(f"no row of the {split} split can be read; the first: {problems[0]}")
    conformal = manifest.conformal
    return {
        "split": split,
        "samples": len(rows),
        "unreadable": len(problems),
        "bundle": predictor.bundle.id,
        "prediction_sets": conformal
        and {"coverage": conformal.coverage, "uncertified": conformal.uncertified},
        "subsets": {name: measure(pairs) for name, pairs in answers.items() if pairs},
    }


def answer_subsets(
    predictor: Predictor, rows: Sequence[Row], description: str
) -> tuple[dict[str, list[tuple[list[float], int]]], list[str]]:
    """Answer each subset of modalities, over the rows that have the subset.

    Args:
        predictor: The predictor.
        rows: Labelled rows; a cell that cannot be read counts as absent.
        description: The text of the progress.

    Returns:
        For each subset, the probabilities [classes] and the true class of its rows, in order; and
        a line per cell that cannot be read.

    Raises:
        ManifestError: If the bundle does not know the label of a row.
    """
    index = {label: number for number, label in enumerate(predictor.labels)}
    if unknown := sorted({str(row.label) for row in rows} - set(index)):
        raise ManifestError(
            "the rows have labels that the bundle does not know: "
            f"{', '.join(map(shorten, unknown[:5]))}; it knows "
            f"{', '.join(map(shorten, list(index)[:_SHOWN_LABELS]))}"
        )
    answers: dict[str, list[tuple[list[float], int]]] = {}
    problems: list[str] = []
    tracked = track(rows, description)
    while block := list(islice(tracked, BATCH_SIZE)):
        batch = []
        for row in block:
            item = predictor.prepare(row.sample, "absent")
            problems += _unreadable_cells(row, item)
            if isinstance(item, PreparedSample):
                batch.append((item, index[str(row.label)]))
        for subset in subsets(list(predictor.kinds)):
            kept = [(_restrict(i, subset), y) for i, y in batch if set(subset) <= set(i.arrays)]
            predictions = predictor.predict_prepared([item for item, _ in kept])
            answers.setdefault(subset_name(subset), []).extend(
                (list(p.probabilities.values()), y)
                for p, (_, y) in zip(predictions, kept, strict=True)
                if not isinstance(p, InputError)
            )
    return answers, problems


def _unreadable_cells(row: Row, item: PreparedSample | InputError) -> list[str]:
    names = [name for name, value in row.sample.items() if not is_absent(value)]
    if isinstance(item, InputError):
        return [f"{row.id}: {item}" for _ in names]
    return [
        f"{row.id}: {name}: {item.warnings[name][0]}" for name in names if name not in item.arrays
    ]


def subset_table(report: dict[str, Any]) -> str:
    """Return the report as a Markdown table, and the subsets whose coverage is not certified."""
    unreadable = f", {report['unreadable']} unreadable cells" if report["unreadable"] else ""
    head = f"{report['bundle']}, {report['split']} split, {report['samples']} samples{unreadable}"
    figures = ("accuracy", "macro_f1", "nll", "ece")
    rows = [
        (name, str(row["samples"]), *(f"{row[figure]:.4f}" for figure in figures))
        for name, row in report["subsets"].items()
    ]
    titles = ("subset", "samples", "accuracy", "macro-F1", "NLL", "ECE")
    sets = report["prediction_sets"]
    note = uncertified_text(sets and Conformal.model_validate(sets))
    text = f"{head}\n\n{markdown.table(titles, rows, numbers=False)}"
    return f"{text}\n\nNot certified: {note}." if note else text


def model_card(path: Path, report: dict[str, Any]) -> str:
    """Return the content of the bundle's README.md."""
    bundle = Bundle.load(path)
    manifest = bundle.manifest
    modalities = "\n".join(
        f"- `{n}`: {s.kind}, `{s.encoder}`" for n, s in manifest.modalities.items()
    )
    fusion = fusion_section(manifest.provenance.get("fusion"))
    return (
        f"# {bundle.id}\n\nMade {manifest.created} by dimml, in {manifest.precision}. Answers for "
        f"any non-empty subset of its modalities with one of {len(manifest.labels)} labels: "
        f"{', '.join(manifest.labels)}."
        f"\n\n## Modalities\n\n{modalities}\n\n{fusion}## Evaluation\n\n{subset_table(report)}\n"
    )


def fusion_section(choice: dict[str, Any] | None) -> str:
    """Return how the modalities are joined, and what the alternatives gave on validation."""
    if not choice or not choice["validation"]:
        return ""
    shares = choice["shares"]
    lines = [f"Late fusion by the rule `{choice['rule']}`."]
    if shares:
        listed = ", ".join(f"{subset} {share:.2f}" for subset, share in shares.items())
        lines.append(
            f"An interaction head (`{choice['interaction']}`) sees all modalities together. Its "
            f"share of an answer: {listed}; no other subset has one."
        )
    else:
        lines.append("No interaction head takes part, because none lowered the NLL beyond noise.")
    rows = [
        (name, f"{one['nll']:.4f}", f"{one['accuracy']:.4f}")
        for name, one in choice["validation"].items()
    ]
    titles = ("fusion", "NLL", "accuracy")
    return (
        f"## Fusion\n\n{' '.join(lines)} Means over validation rows and their subsets, on rows "
        "that the calibration did not see (`interaction`: the rule with the head):\n\n"
        f"{markdown.table(titles, rows)}\n\n"
    )


def measure(pairs: list[tuple[list[float], int]]) -> dict[str, Any]:
    """Return accuracy, macro-F1, NLL (nats) and ECE (15 equal-width bins of confidence).

    The macro-F1 leaves out a class that no sample has and no answer names.

    Args:
        pairs: The probabilities [classes] and the true class of each sample.
    """
    probabilities: Tensor = torch.tensor([p for p, _ in pairs])
    labels = torch.tensor([y for _, y in pairs])
    figures = scores(probabilities, labels)
    macro_f1 = multiclass_f1_score(probabilities, labels, probabilities.shape[1], average="macro")
    accuracy = figures.pop("accuracy")
    return {"samples": len(pairs), "accuracy": accuracy, "macro_f1": float(macro_f1), **figures}


def _restrict(item: PreparedSample, subset: Sequence[str]) -> PreparedSample:
    return PreparedSample({name: item.arrays[name] for name in subset}, {})

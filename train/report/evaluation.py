"""The report of `dimml evaluate`: its document, `report.json`, and the page that shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dimml.errors import UsageError
from dimml.files import write_atomic
from dimml.samples import subset_name
from train.evaluate import Evaluation, subset_table
from train.metrics import expected_ece, reliability
from train.report.confusion import count_confusions
from train.report.corruption import measure_corruption
from train.report.examples import RowAnswers, show_errors
from train.report.figures import draw_figures
from train.report.page import (
    FOLDER,
    confused_pairs,
    figure_mark,
    load_template,
    write_examples,
    write_page,
)
from train.report.sentences import SURE, opening
from train.shown_subsets import enough_samples, modalities_of, shown_subsets
from train.split_answers import SplitAnswers

DOCUMENT = "report.json"
PAGE = "report.html"
FORMAT = "dimml-evaluation-report"
VERSION = 1
MISSING_RATES = tuple(n / 10 for n in range(10))


def write_report(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write `report.json` and its page into a folder, and return the path of the page."""
    page = evaluation_page(document)
    write_atomic(folder / DOCUMENT, json.dumps(document, indent=1, allow_nan=False) + "\n")
    write_atomic(folder / PAGE, page)
    return folder / PAGE


def read_document(path: Path) -> dict[str, Any]:
    """Read a `report.json`.

    Raises:
        UsageError: If the file is not the report of an evaluation.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}; `dimml evaluate` writes this file") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UsageError(
            f"{path} is not the report of an evaluation (its `format` is not {FORMAT}); name the "
            f"{DOCUMENT} that `dimml evaluate` wrote"
        )
    if document.get("version") != VERSION:
        raise UsageError(
            f"{path} has version {document.get('version')}; this dimml reads version {VERSION}: "
            "run `dimml evaluate` again"
        )
    return document


def evaluation_page(document: Mapping[str, Any]) -> str:
    """Return the report as one HTML page."""
    evaluation = document["evaluation"]
    text = load_template(FOLDER / "evaluation.md.j2").render(
        document=document,
        model=document["model"],
        opening=opening(document["reference"], document["summary"]),
        title=f"{evaluation['bundle']} on the {evaluation['split']} split",
        subset_table=subset_table(dict(evaluation)),
        selected=len(_shown(document)) < len(document["subsets"]),
        constant_weights=_has_constant_weights(document),
        confused_pairs=confused_pairs,
        figure=figure_mark,
    )
    figures = draw_figures({**document, "shown": _shown(document)})
    return write_page(text, {**figures, **write_examples(document["model"]["examples"])})


def report_document(evaluated: Evaluation, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the report shows.

    The figures have the form of a comparison with one method, see
    `train.compare.summary.summarise`, so that both reports draw them alike.

    Args:
        evaluated: The answers to the rows.
        evaluation: The document of `evaluation.json`.
    """
    answers, predictor = evaluated.answers, evaluated.predictor
    modalities, labels = list(predictor.kinds), predictor.labels
    rows = [evaluated.rows[number] for number in answers.rows]
    corruption = measure_corruption(predictor, rows, answers.labels.tolist())
    full = subset_name(modalities)
    whole = row_answers(answers)
    name = predictor.bundle.manifest.name
    method = {
        "subsets": {
            subset: {"accuracy": _figure(one["accuracy"], one["samples"])}
            for subset, one in evaluation["subsets"].items()
        },
        "missing": {
            str(rate): {"accuracy": _figure(missing_accuracy(answers, rate), len(rows))}
            for rate in MISSING_RATES
        },
        "corruption": {
            modality: {
                kind: {
                    level: {key: _figure(value, None) for key, value in figures.items()}
                    for level, figures in levels.items()
                }
                for kind, levels in kinds.items()
            }
            for modality, kinds in corruption["levels"].items()
        },
        "reliability": {
            subset: _reliability(answers.subsets[subset].probabilities, answers, subset)
            for subset in dict.fromkeys([full, *modalities])
            if subset in answers.subsets
        },
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "evaluation": dict(evaluation),
        "summary": _summary(answers, evaluation, labels),
        "reference": name,
        "full": full,
        "subsets": list(evaluation["subsets"]),
        "singles": [one for one in modalities if one in evaluation["subsets"]],
        "rates": [str(rate) for rate in MISSING_RATES],
        "corruption_rows": corruption["rows"],
        "methods": {name: method},
        "model": {
            "confusion": count_confusions(whole.labels, whole.predicted, labels),
            "examples": show_errors(rows, whole, predictor.kinds, labels),
        },
    }


def row_answers(answers: SplitAnswers) -> RowAnswers:
    """Return the answers from everything that a row has."""
    whole = answers.whole
    return RowAnswers(
        labels=answers.labels,
        predicted=whole.ranked[:, 0],
        confidence=whole.probabilities.max(axis=1),
        weights=whole.weights,
        alone_labels=whole.modality_labels,
        alone_confidence=whole.modality_confidences,
        present=whole.present,
    )


def missing_accuracy(answers: SplitAnswers, rate: float) -> float:
    """Return the expected accuracy when each modality of a row is dropped with a probability.

    At least one modality stays: a row that would lose all keeps one of them, each as likely. With m
    modalities and q = 1 - r, a subset of s stays with the probability r^(m-s) q^s, and a single
    modality with r^m / m in addition, so the expectation needs no random draws.

    Args:
        answers: The answers to each subset.
        rate: The probability r.
    """
    counts = answers.whole.present.sum(axis=1)
    total = 0.0
    for one in answers.subsets.values():
        size, of_row = int(one.slots.sum()), counts[one.having]
        right = one.probabilities.argmax(axis=1) == answers.labels[one.having]
        share = rate ** (of_row - size) * (1 - rate) ** size
        if size == 1:
            share = share + rate**of_row / of_row
        total += float(share[right].sum())
    return total / len(counts)


def _summary(
    answers: SplitAnswers, evaluation: Mapping[str, Any], labels: tuple[str, ...]
) -> dict[str, Any]:
    """Return what the first sentences tell, see `train.report.sentences.opening`."""
    whole = row_answers(answers)
    right = whole.predicted == whole.labels
    sure = whole.confidence >= SURE
    counts = np.bincount(whole.labels, minlength=len(labels))
    bins = reliability(
        torch.from_numpy(answers.whole.probabilities), torch.from_numpy(answers.labels)
    )
    gaps = [
        count * abs(accuracy - confidence)
        for confidence, accuracy, count in zip(*bins.values(), strict=True)
        if count
    ]
    return {
        "samples": len(right),
        "accuracy": float(right.mean()),
        "confidence": float(whole.confidence.mean()),
        "frequent": {"label": labels[counts.argmax()], "share": float(counts.max() / counts.sum())},
        "sure": {
            "share": float(sure.mean()),
            "accuracy": float(right[sure].mean()) if sure.any() else None,
        },
        "ece": float(sum(gaps) / len(right)),
        "expected_ece": expected_ece(bins),
        "subsets": {
            name: evaluation["subsets"][name]["accuracy"]
            for name in enough_samples(evaluation["subsets"])
        },
        "modalities": len(modalities_of(evaluation["subsets"])),
    }


def _shown(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the title and the name of each subset that the figure of accuracies shows."""
    return shown_subsets(document["evaluation"]["subsets"])


def _has_constant_weights(document: Mapping[str, Any]) -> bool:
    """Return whether no corruption changes a weight by more than a point, among several inputs."""
    [method] = document["methods"].values()
    spreads = []
    for kinds in method["corruption"].values():
        for levels in kinds.values():
            weights = [level["weight"]["mean"] for level in levels.values()]
            spreads.append(max(weights) - min(weights))
    return len(document["subsets"]) > 1 and max(spreads, default=1.0) < 0.01


def _reliability(
    probabilities: np.ndarray, answers: SplitAnswers, subset: str
) -> dict[str, list[Any]]:
    labels = answers.labels[answers.subsets[subset].having]
    return reliability(torch.from_numpy(probabilities), torch.from_numpy(labels))


def _figure(share: float, samples: int | None) -> dict[str, Any]:
    """Return a share as a comparison stores a figure; `std` is its standard error."""
    error = None if samples is None else float(np.sqrt(max(0.0, share * (1 - share)) / samples))
    return {"mean": share, "std": error, "count": 1}

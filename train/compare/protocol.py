"""What a comparison measures of a trained model: subsets, missing at random, corruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dimml.bundle import Conformal
from dimml.modalities import Kind
from dimml.nn.model import MultimodalModel
from dimml.samples import subset_name
from train.calibration import subset_rows
from train.conformal import conformal_rows
from train.data.cache import Split
from train.data.corruptions import CorruptionKey, TestSplit
from train.data.loader import Collate, EpochSampler, SplitDataset
from train.methods.base import drop_modalities
from train.metrics import prediction_sets, reliability, risk_coverage_area, scores
from train.module import encode
from train.readout import Readout
from train.recipe import Recipe
from train.report.confusion import count_confusions
from train.report.examples import RowAnswers, show_errors

MISSING_RATES = (0.0, 0.1, 0.3, 0.5, 0.7)
"""The probabilities that a present modality goes missing."""
BATCH_SIZE = 256
HIGH_COVERAGE = 0.99
"""A coverage of prediction sets, beside the recipe's."""


@dataclass(frozen=True)
class EncodedTestSplit:
    """The features of one model for the test split.

    Attributes:
        modalities: Names in slot order.
        features, present, labels: [N, M, D], bool [N, M] and int64 [N].
        full: bool [N], the rows that have every modality.
        corrupted: Features [n, D] of one modality of the full rows, corrupted.
    """

    modalities: tuple[str, ...]
    features: Tensor
    present: Tensor
    labels: Tensor
    full: Tensor
    corrupted: Mapping[CorruptionKey, Tensor]


@torch.no_grad()
def encode_test_split(model: MultimodalModel, split: TestSplit) -> EncodedTestSplit:
    """Run the encoders over all test data, in eval mode."""
    features, present, labels = encode(model, _loader(split.clean, split.kinds))
    corrupted = {}
    for (name, corruption, level), changed in split.corrupted.items():
        encoder = model.encoders[model.modalities.index(name)]
        column = torch.zeros(len(changed), model.feature_dim)
        for start, batch in enumerate(_loader(changed, {name: split.kinds[name]})):
            for rows, arrays in batch.inputs[name]:
                column[start * BATCH_SIZE + rows] = encoder(**arrays)
        corrupted[name, corruption, level] = column
    return EncodedTestSplit(model.modalities, features, present, labels, split.full, corrupted)


def _loader(split: Split, kinds: Mapping[str, Kind]) -> Any:
    return DataLoader(
        SplitDataset(split, kinds, {}, 0),
        batch_size=BATCH_SIZE,
        sampler=EpochSampler(len(split), 0, shuffle=False),
        collate_fn=Collate(kinds, training=False),
    )


def coverages(recipe: Recipe) -> tuple[float, ...]:
    """Return the coverages at which prediction sets are measured, the recipe's first."""
    return tuple(dict.fromkeys((recipe.coverage, HIGH_COVERAGE)))


def measure_readout(
    readout: Readout,
    test: EncodedTestSplit,
    conformals: Sequence[Conformal],
    validation_present: Tensor,
    seed: int,
) -> dict[str, Any]:
    """Return the keys `subsets`, `missing`, `corruption` and `reliability` of a result.

    Args:
        readout: A calibrated answer.
        test: The test split.
        conformals: The readout's limits, one for each of `coverages`.
        validation_present: bool [n, M], the validation split on which they were fitted.
        seed: Draws the missing modalities; the same for all methods of a seed.
    """
    held_out = validation_present[conformal_rows(len(validation_present))]
    set_rows = {s: int(rows.sum()) for s, rows, _ in subset_rows(test.modalities, held_out)}
    subsets: dict[str, Any] = {}
    bins, missing = {}, {}
    for subset, rows, mask in subset_rows(test.modalities, test.present):
        name, labels = subset_name(subset), test.labels[rows]
        probabilities, _ = readout(test.features[rows], mask)
        subsets[name] = {
            "samples": len(labels),
            **scores(probabilities, labels),
            "risk_coverage_area": risk_coverage_area(probabilities, labels),
            "set_rows": set_rows.get(subset, 0),
        }
        for prefix, conformal in zip(("", "high_"), conformals, strict=False):
            sets = prediction_sets(probabilities, labels, conformal.min_probability(name))
            sets["set_nominal"] = conformal.coverage
            subsets[name] |= {f"{prefix}{key}": value for key, value in sets.items()}
        bins[name] = reliability(probabilities, labels)
    for rate in MISSING_RATES:
        # The same draw for every rate: a modality that is missing at 10 % is missing at 30 % too.
        kept = drop_modalities(test.present, rate, torch.Generator().manual_seed(seed))
        missing[str(rate)] = scores(readout(test.features, kept)[0], test.labels)
    corruption = _measure_corruption(readout, test)
    return {"subsets": subsets, "missing": missing, "corruption": corruption, "reliability": bins}


def describe_errors(
    readout: Readout, test: EncodedTestSplit, split: TestSplit, examples: bool
) -> dict[str, Any]:
    """Return the key `model` of a result: the confused labels, and the most confident errors.

    Args:
        readout: A calibrated answer.
        test: The test split as the model sees it.
        split: The same split with its rows.
        examples: Whether to add the errors with their inputs.
    """
    probabilities, weights = readout(test.features, test.present)
    confidence, predicted = (one.numpy() for one in probabilities.max(dim=1))
    alone = [
        readout(test.features, (torch.arange(len(test.modalities)) == slot).expand_as(test.present))
        for slot in range(len(test.modalities))
    ]
    alone_confidence, alone_labels = torch.stack([p for p, _ in alone], dim=1).max(dim=2)
    answers = RowAnswers(
        labels=test.labels.numpy(),
        predicted=predicted,
        confidence=confidence,
        weights=None if weights is None else weights.numpy(),
        alone_labels=alone_labels.numpy(),
        alone_confidence=alone_confidence.numpy(),
        present=test.present.numpy(),
    )
    described: dict[str, Any] = {
        "confusion": count_confusions(answers.labels, answers.predicted, split.labels)
    }
    if examples:
        described["examples"] = show_errors(split.rows, answers, split.decoders, split.labels)
    return described


def _measure_corruption(readout: Readout, test: EncodedTestSplit) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    labels, present = test.labels[test.full], test.present[test.full]
    for (name, corruption, level), changed in test.corrupted.items():
        slot = test.modalities.index(name)
        features = test.features[test.full].clone()
        features[:, slot] = changed
        probabilities, weights = readout(features, present)
        measured.setdefault(name, {}).setdefault(corruption, {})[str(level)] = {
            **scores(probabilities, labels),
            "weight": None if weights is None else float(weights[:, slot].mean()),
            "confidence": float(probabilities.amax(dim=1).mean()),
        }
    return measured

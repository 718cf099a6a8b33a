"""What a comparison measures of one trained model: subsets, missing at random, corruption."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dimml.bundle import Conformal
from dimml.errors import ManifestError
from dimml.modalities import Kind
from dimml.nn.model import MultimodalModel
from dimml.samples import subset_name
from dimml.table import Row
from train.calibration import conformal_rows, subset_rows
from train.compare import corruptions as corrupt
from train.data.cache import Split, cached_split
from train.data.loader import Collate, EpochSampler, SplitDataset
from train.data.prepare import PreparedData
from train.data.splits import read_split
from train.methods.base import drop_modalities
from train.metrics import prediction_sets, reliability, risk_coverage_area, scores
from train.module import encode
from train.readout import Readout
from train.recipe import Recipe

RATES = (0.0, 0.1, 0.3, 0.5, 0.7)
"""Of each present modality, the probability that it goes missing."""
BATCH_SIZE = 256
HIGH_COVERAGE = 0.99
"""Of prediction sets, beside the recipe's."""

Key = tuple[str, str, int]
"""Modality, corruption and level."""


@dataclass(frozen=True)
class TestData:
    """The decoded test split, clean and corrupted.

    Attributes:
        kinds: the modalities.
        clean: all of the split.
        full: bool [N], the rows that have every modality.
        corrupted: those rows in one modality, corrupted.
    """

    kinds: Mapping[str, Kind]
    clean: Split
    full: Tensor
    corrupted: Mapping[Key, Split]


@dataclass(frozen=True)
class EncodedTestSplit:
    """What one model's encoders make of the test split.

    Attributes:
        modalities: names in slot order.
        features: [N, M, D].
        present: bool [N, M].
        labels: int64 [N].
        full: bool [N].
        corrupted: features [n, D] of the full rows in one modality.
    """

    modalities: tuple[str, ...]
    features: Tensor
    present: Tensor
    labels: Tensor
    full: Tensor
    corrupted: Mapping[Key, Tensor]


def read_test(recipe: Recipe, prepared: PreparedData, cache: Path) -> TestData:
    """Decodes the test split, clean and with every corruption, once for all methods and seeds.

    Raises:
        ManifestError: there is no test split, or it has a label that training has not.
    """
    rows = read_split(recipe.data, {n: m.kind for n, m in recipe.modalities.items()}, "test")
    if unknown := sorted({str(row.label) for row in rows} - set(prepared.labels)):
        raise ManifestError(
            f"the test split of {recipe.data} has labels that its train split has not: "
            f"{', '.join(unknown[:5])}"
        )
    kinds, labels = prepared.kinds, prepared.labels
    clean = cached_split(rows, kinds, labels, "test", cache, prepared.settings)
    full = clean.present.all(axis=1)
    complete = [rows[number] for number in clean.rows[full]]
    corrupted = _corrupted(recipe, prepared, complete, cache) if complete else {}
    return TestData(kinds, clean, torch.from_numpy(full), corrupted)


def _corrupted(
    recipe: Recipe, prepared: PreparedData, rows: list[Row], cache: Path
) -> dict[Key, Split]:
    constants = (corrupt.DECIBELS, corrupt.BLUR, corrupt.DEVIATION, corrupt.AREA)
    found = {}
    for name, modality in recipe.modalities.items():
        for corruption in corrupt.CORRUPTIONS[modality.kind]:
            for level in corrupt.LEVELS:
                changed = corrupt.Corrupted(prepared.kinds[name], modality.kind, corruption, level)
                settings = json.dumps([constants, corrupt.PROBABILITY]) + prepared.settings
                label = f"test.{name}.{corruption}.{level}"
                kinds = {name: cast(Kind, changed)}
                split = cached_split(rows, kinds, prepared.labels, label, cache, settings)
                if len(split) != len(rows):
                    raise ManifestError(f"{label}: a corrupted cell cannot be read any more")
                found[name, corruption, level] = split
    return found


@torch.no_grad()
def encode_test(model: MultimodalModel, data: TestData) -> EncodedTestSplit:
    """Runs the encoders over all test data, in eval mode."""
    features, present, labels = encode(model, _loader(data.clean, data.kinds))
    corrupted = {
        (name, corruption, level): _encode_one(model, name, data.kinds[name], split)
        for (name, corruption, level), split in data.corrupted.items()
    }
    return EncodedTestSplit(model.modalities, features, present, labels, data.full, corrupted)


def _encode_one(model: MultimodalModel, name: str, kind: Kind, split: Split) -> Tensor:
    encoder = model.encoders[model.modalities.index(name)]
    parts = []
    for batch in _loader(split, {name: kind}):
        part = torch.zeros(len(batch.labels), model.feature_dim)
        for rows, arrays in batch.inputs[name]:
            part[rows] = encoder(**arrays)
        parts.append(part)
    return torch.cat(parts)


def _loader(split: Split, kinds: Mapping[str, Kind]) -> Any:
    return DataLoader(
        SplitDataset(split, kinds, {}, 0),
        batch_size=BATCH_SIZE,
        sampler=EpochSampler(len(split), 0, shuffle=False),
        collate_fn=Collate(kinds, training=False),
    )


def coverages(recipe: Recipe) -> tuple[float, ...]:
    """Coverages at which prediction sets are measured, the recipe's first."""
    return tuple(dict.fromkeys((recipe.coverage, HIGH_COVERAGE)))


def cross_validated(
    readout: Readout, modalities: tuple[str, ...], validation: tuple[Tensor, Tensor, Tensor]
) -> dict[str, float]:
    """Accuracy and NLL, means over subsets, on validation rows that calibration did not see.

    By two halves of the part that calibration may see, in turn; what to ship is chosen by them.
    The readout is left calibrated on one of them.
    """
    features, present, labels = (part[~conformal_rows(len(part))] for part in validation)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    halves = order.chunk(2)
    found: dict[str, list[float]] = {"accuracy": [], "nll": []}
    for fitted, held in (halves, halves[::-1]):
        readout.calibrate(modalities, features[fitted], present[fitted], labels[fitted])
        for _, rows, mask in subset_rows(modalities, present[held]):
            probabilities, _ = readout(features[held][rows], mask)
            measured = scores(probabilities, labels[held][rows])
            for key, values in found.items():
                values.append(measured[key])
    return {key: sum(values) / len(values) for key, values in found.items()}


def held_rows(modalities: tuple[str, ...], present: Tensor) -> dict[str, int]:
    """Subset to the validation rows that its conformal threshold is fitted on."""
    held = present[conformal_rows(len(present))]
    return {
        subset_name(subset): int(rows.sum()) for subset, rows, _ in subset_rows(modalities, held)
    }


def measure_readout(
    readout: Readout,
    data: EncodedTestSplit,
    conformals: Sequence[Conformal],
    held: Mapping[str, int],
    seed: int,
) -> dict[str, Any]:
    """The keys `subsets`, `missing`, `corruption` and `reliability` of a result.

    Args:
        readout: calibrated.
        data: the test split.
        conformals: the readout's thresholds, see `coverages`.
        held: subset to the rows that these were fitted on, see `held_rows`.
        seed: of the missing modalities; equal for all methods of a seed.
    """
    subsets, bins = {}, {}
    for subset, rows, mask in subset_rows(data.modalities, data.present):
        name = subset_name(subset)
        probabilities, _ = readout(data.features[rows], mask)
        labels = data.labels[rows]
        subsets[name] = {
            "samples": len(labels),
            **scores(probabilities, labels),
            "risk_coverage_area": risk_coverage_area(probabilities, labels),
            **_sets(probabilities, labels, name, conformals),
            "set_rows": held.get(name, 0),
        }
        bins[name] = reliability(probabilities, labels)
    missing = {}
    for rate in RATES:
        # One draw for every rate: what is missing at 10 % is missing at 30 % too.
        kept = drop_modalities(data.present, rate, torch.Generator().manual_seed(seed))
        missing[str(rate)] = scores(readout(data.features, kept)[0], data.labels)
    corruption = _measure_corruption(readout, data)
    return {
        "subsets": subsets,
        "missing": missing,
        "corruption": corruption,
        "reliability": bins,
    }


def _sets(
    probabilities: Tensor, labels: Tensor, subset: str, conformals: Sequence[Conformal]
) -> dict[str, float | None]:
    """Of the recipe's coverage `set_coverage` and `set_size`, of the high one `high_set_...`."""
    found: dict[str, float | None] = {}
    for prefix, conformal in zip(("", "high_"), conformals, strict=False):
        measured = prediction_sets(probabilities, labels, conformal.thresholds.get(subset))
        measured["set_nominal"] = conformal.coverage
        found |= {f"{prefix}{key}": value for key, value in measured.items()}
    return found


def _measure_corruption(readout: Readout, data: EncodedTestSplit) -> dict[str, Any]:
    found: dict[str, Any] = {}
    labels, present = data.labels[data.full], data.present[data.full]
    for (name, corruption, level), changed in data.corrupted.items():
        slot = data.modalities.index(name)
        features = data.features[data.full].clone()
        features[:, slot] = changed
        probabilities, weights = readout(features, present)
        found.setdefault(name, {}).setdefault(corruption, {})[str(level)] = {
            **scores(probabilities, labels),
            "weight": None if weights is None else float(weights[:, slot].mean()),
            "confidence": float(probabilities.amax(dim=1).mean()),
        }
    return found

"""What a bundle answers when one of its inputs is corrupted, measured on a part of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np
import PIL.ImageOps

from dimml.errors import InputError
from dimml.modalities import Arrays, Image, Kind
from dimml.modalities.text import Tokens
from dimml.outputs import EncodedBatch, PreparedSample
from dimml.predictor import Predictor
from dimml.samples import is_absent
from dimml.table import Row
from train.data.corruptions import CORRUPTIONS, LEVELS, CorruptedKind

MAX_ROWS = 100
BLOCK_ROWS = 25
MAX_SIDE = 1024
"""Larger pictures are shrunk to this size first, because noise on a photograph takes a second."""


def measure_corruption(
    predictor: Predictor, rows: Sequence[Row], labels: Sequence[int]
) -> dict[str, Any]:
    """Measure the answers when one modality is corrupted and the others are whole.

    Args:
        predictor: The predictor.
        rows: The rows of a split, of which those of `choose_rows` are used.
        labels: The number of the true label of each row.

    Returns:
        `rows` (number of rows), and `levels`: modality, corruption and level (0 is not corrupted)
        to `accuracy` and `weight`, the mean weight of the corrupted modality.
    """
    chosen = choose_rows(rows, list(predictor.kinds))
    sums: dict[tuple[str, str, int], np.ndarray] = {}
    for start in range(0, len(chosen), BLOCK_ROWS):
        block = chosen[start : start + BLOCK_ROWS]
        truth = np.array([labels[number] for number in block])
        for key, figures in _answer_block(predictor, [rows[number] for number in block], truth):
            sums[key] = sums.get(key, 0) + figures
    levels: dict[str, Any] = {}
    for (name, corruption, level), (samples, right, weight) in sums.items():
        of_corruption = levels.setdefault(name, {}).setdefault(corruption, {})
        of_corruption[str(level)] = {
            "accuracy": float(right / samples),
            "weight": float(weight / samples),
        }
    return {"rows": len(chosen), "levels": levels}


def choose_rows(rows: Sequence[Row], modalities: Sequence[str]) -> list[int]:
    """Return the numbers of at most `MAX_ROWS` evenly spaced rows, with every modality if any has.

    Args:
        rows: The rows of a split.
        modalities: Names of the modalities.
    """
    full = [
        number
        for number, row in enumerate(rows)
        if not any(is_absent(row.sample.get(name)) for name in modalities)
    ]
    usable = full or list(range(len(rows)))
    places = np.linspace(0, len(usable) - 1, min(MAX_ROWS, len(usable)))
    return [usable[int(place)] for place in places]


def _answer_block(
    predictor: Predictor, rows: Sequence[Row], truth: np.ndarray
) -> Iterator[tuple[tuple[str, str, int], np.ndarray]]:
    """Yield modality, corruption and level; and the sums of samples, right answers and weights."""
    raws = [_decode(row.sample, predictor.kinds) for row in rows]
    clean = predictor.encode([_prepare(raw, predictor.kinds) for raw in raws])
    for slot, (name, kind) in enumerate(predictor.kinds.items()):
        having = np.flatnonzero(clean.present[:, slot]).tolist()
        if not having:
            continue
        spec = predictor.bundle.manifest.modalities[name]
        for corruption in CORRUPTIONS[spec.kind]:
            for level in (0, *LEVELS):
                features = clean.features[having]
                if level:
                    changed = cast(Kind, CorruptedKind(kind, spec.kind, corruption, level))
                    arrays = [
                        _corrupt(changed, rows[number].sample[name], raws[number][name])
                        for number in having
                    ]
                    batch = [PreparedSample({name: one}, {}) for one in arrays]
                    features[:, slot] = predictor.encode(batch).features[:, slot]
                fused = predictor.fuse(EncodedBatch(features, clean.present[having]))
                right = (fused.ranked[:, 0] == truth[having]).sum()
                weight = fused.weights[:, slot].sum()
                yield (name, corruption, level), np.array([len(having), right, weight])


def _decode(sample: Mapping[str, Any], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Return the decoded values of a sample by modality, without those that cannot be read."""
    raw = {}
    for name, kind in kinds.items():
        if is_absent(value := sample.get(name)):
            continue
        try:
            raw[name] = kind.decode(value)
        except InputError:
            continue
        if isinstance(kind, Image):
            raw[name] = [
                PIL.ImageOps.contain(frame, (MAX_SIDE, MAX_SIDE))
                if max(frame.size) > MAX_SIDE
                else frame
                for frame in raw[name]
            ]
    return raw


def _prepare(raw: Mapping[str, Any], kinds: Mapping[str, Kind]) -> PreparedSample:
    return PreparedSample({name: kinds[name].preprocess(one) for name, one in raw.items()}, {})


def _corrupt(kind: Kind, value: Any, raw: Any) -> Arrays:
    """Return the arrays of a value after its corruption; texts are corrupted before decoding."""
    if isinstance(raw, Tokens):
        # A text of which nothing is left that the tokenizer knows stays as it was.
        with suppress(InputError):
            raw = kind.decode(kind.only_value(value))
    return kind.preprocess(raw)

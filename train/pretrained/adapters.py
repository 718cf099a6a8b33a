"""The choice of an adapter: validation decides whether a hidden layer helps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dimml.nn.pretrained.adapter import Adapter, AdapterName
from dimml.progress import print_status
from train.data.cache import Split
from train.data.splits import labelled_rows

SAMPLE_ROWS = 20_000
"""Rows of a split, evenly spaced, that statistics and the choice are computed from."""
EPOCHS = 30
BATCH_SIZE = 256
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
SEED = 0


def sample_features(split: Split, name: str) -> tuple[Tensor, Tensor]:
    """Return features [n, width] of the first view and labels [n] of labelled rows of a split."""
    slot = split.modalities.index(name)
    rows = labelled_rows(np.where(split.present[:, slot], split.labels, -1))
    rows = rows[:: math.ceil(len(rows) / SAMPLE_ROWS) or 1]
    features = [split[int(row)][name]["features"][0] for row in rows]
    labels = torch.from_numpy(split.labels[rows])
    return torch.from_numpy(np.stack(features)) if features else torch.zeros(0, 1), labels


def choose_adapter(
    name: str, splits: Mapping[str, Split], feature_dim: int, classes: int
) -> AdapterName:
    """Return the adapter with the higher validation accuracy for one modality alone.

    The linear layer wins unless the other is better by more than one standard error.

    Args:
        name: The modality.
        splits: The splits "train" and "validation".
        feature_dim: D.
        classes: K.
    """
    train, validation = (sample_features(splits[split], name) for split in ("train", "validation"))
    if not len(validation[1]):
        return "linear"
    linear, mlp = (
        _accuracy(adapter, train, validation, feature_dim, classes) for adapter in ("linear", "mlp")
    )
    error = math.sqrt(max(linear * (1 - linear), 1e-4) / len(validation[1]))
    chosen: AdapterName = "mlp" if mlp > linear + error else "linear"
    print_status(
        f"{name}: adapter {chosen}; alone on validation, linear has an accuracy of {linear:.3f} "
        f"and mlp of {mlp:.3f}"
    )
    return chosen


def _accuracy(
    adapter: AdapterName,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    feature_dim: int,
    classes: int,
) -> float:
    """Train an adapter and a classifier on one modality; return the accuracy of the best epoch."""
    features, labels = train
    loss: Any
    generator = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        head = Adapter(features.shape[1], feature_dim, adapter)
        head.standardize(features)
        model = nn.Sequential(head, nn.Linear(feature_dim, classes))
        optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        best = 0.0
        for _ in range(EPOCHS):
            model.train()
            order: Any = torch.randperm(len(labels), generator=generator)
            for rows in order.split(BATCH_SIZE):
                loss = functional.cross_entropy(model(features[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                right = model(validation[0]).argmax(dim=1) == validation[1]
            best = max(best, float(right.float().mean()))
    return best

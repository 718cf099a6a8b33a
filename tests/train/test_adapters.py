"""The choice of an adapter: a hidden layer only where validation is clearly better with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch

from dimml.nn.pretrained.adapter import Adapter
from train.data.cache import Split
from train.pretrained.adapters import choose_adapter, sample_features

MODALITIES = ("other", "call")


@dataclass
class Table:
    """A split of features in memory."""

    features: np.ndarray
    labels: np.ndarray
    present: np.ndarray
    modalities: tuple[str, ...] = MODALITIES

    def __getitem__(self, row: int) -> dict[str, dict[str, np.ndarray]]:
        return {"call": {"features": self.features[row]}} if self.present[row, 1] else {}


def table(features: np.ndarray, labels: np.ndarray) -> Table:
    # A second view that says nothing must not count.
    views = np.stack([features, np.zeros_like(features)], axis=1).astype(np.float32)
    return Table(views, labels, np.ones((len(labels), 2), bool))


def choose(train: Table, validation: Table) -> str:
    splits = cast(dict[str, Split], {"train": train, "validation": validation})
    return choose_adapter("call", splits, 16, 2)


def points(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 4))


def exclusive_or(count: int, seed: int) -> Table:
    values = points(count, seed)
    return table(values, ((values[:, 0] > 0) ^ (values[:, 1] > 0)).astype(np.int64))


def separable(count: int, seed: int) -> Table:
    values = points(count, seed)
    return table(values, (values[:, 0] > 0).astype(np.int64))


def test_mlp_is_chosen_where_only_a_hidden_layer_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose(exclusive_or(2000, 0), exclusive_or(400, 1)) == "mlp"
    assert "call: adapter mlp; alone on validation, linear has an ac" in capsys.readouterr().err


def test_linear_is_chosen_where_it_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose(separable(500, 0), separable(200, 1)) == "linear"
    assert "call: adapter linear; alone on valid" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("linear", "mlp", "rows", "chosen"),
    [
        # One standard error of 0.8 on 100 rows is 0.04, on 400 rows 0.02.
        (0.8, 0.83, 100, "linear"),
        (0.8, 0.84, 100, "linear"),
        (0.8, 0.85, 100, "mlp"),
        (0.8, 0.83, 400, "mlp"),
        (0.8, 0.8, 100, "linear"),
        (0.8, 0.7, 100, "linear"),
        (0.0, 0.001, 100, "linear"),
        (1.0, 1.0, 100, "linear"),
    ],
)
def test_linear_is_preferred_within_one_standard_error(
    monkeypatch: pytest.MonkeyPatch, linear: float, mlp: float, rows: int, chosen: str
) -> None:
    accuracies = {"linear": linear, "mlp": mlp}
    monkeypatch.setattr(
        "train.pretrained.adapters._accuracy", lambda adapter, *_: accuracies[adapter]
    )
    assert choose(separable(10, 0), separable(rows, 1)) == chosen


def test_modality_without_validation_rows_has_a_linear_adapter() -> None:
    validation = separable(10, 1)
    validation.present[:, 1] = False
    assert choose(separable(10, 0), validation) == "linear"


def test_choice_does_not_change_the_random_numbers_of_the_run() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    choose(separable(50, 0), separable(50, 1))
    assert torch.rand(4).equal(expected)


def test_statistics_are_those_of_labelled_rows_that_have_the_modality() -> None:
    train = separable(20, 0)
    train.labels[3] = -1
    train.present[5, 1] = False
    features, labels = sample_features(cast(Any, train), "call")
    kept = [row for row in range(20) if row not in (3, 5)]
    np.testing.assert_array_equal(features.numpy(), train.features[kept, 0])
    assert labels.tolist() == train.labels[kept].tolist()


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_adapter_standardises_but_does_not_blow_up_what_hardly_varies(name: Any) -> None:
    deviations = torch.tensor([0.5, 1.0, 1e3, 1e-5, 0.0])
    features = torch.randn(100, 5) * deviations + 5.0
    adapter = Adapter(5, 4, name).eval()
    adapter.standardize(features)
    scaled = ((features - adapter.mean) * adapter.scale).std(dim=0, correction=0)
    assert scaled[:3].tolist() == pytest.approx([1, 1, 1], abs=1e-2)
    assert scaled[3:].max() < 1e-3
    # The smallest deviation is a quarter of the median of those that are not 0.
    assert adapter.scale.max() == pytest.approx(4 / 0.5, rel=0.3)


def test_adapter_of_constant_features_is_finite() -> None:
    adapter = Adapter(3, 4, "linear").eval()
    adapter.standardize(torch.full((10, 3), 2.0))
    assert adapter(torch.randn(5, 3)).isfinite().all()

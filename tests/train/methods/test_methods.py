"""Properties of every method in `METHODS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dimml.samples import subset_name, subsets
from tests.train.methods.conftest import widened
from train.calibration import EncodedRows, subset_mask
from train.methods import METHODS, method_class

NAMES = ("audio", "image", "text")
EPOCH = 5
"""An epoch after the warm-up."""
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in METHODS),
    ("dimml", {"shared": False}),
    ("dimml", {"duc": False}),
    *(("dimml", {"interaction": name}) for name in ("none", "linear", "paper")),
    ("dimml", {"gradient": "joint", "fusion": "pooled"}),
    ("joint", {"fill": "mean"}),
    ("joint", {"head": "mlp"}),
    ("simmlm", {"independent": 0.0}),
    ("ume", {"fusion": "certainty"}),
]


def gradients(
    make: Callable[..., Any], name: str, options: dict[str, Any], batch: EncodedRows
) -> Any:
    """Return the terms of the loss and every gradient after one step on a batch."""
    model, method = make(name, **options)
    batch = widened(model, batch)
    model.effective[0, :3], model.effective[1, 3:] = True, True
    features = batch[0].clone().requires_grad_()
    parameters = [*model.parameters(), *method.parameters()]
    torch.manual_seed(1)
    if method.alternates:
        optimizer = torch.optim.SGD(parameters, 0.1)
        terms = method.alternate(model, batch._replace(features=features), optimizer)
        grads = [parameter.detach().clone() for parameter in parameters]
    else:
        terms = method.objective(model, batch._replace(features=features), EPOCH)
        torch.stack(list(terms.values())).sum().backward()
        grads = [p.grad for p in parameters if p.grad is not None]
    assert features.grad is not None
    return terms, [*grads, features.grad]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
class TestEveryMethod:
    def test_content_of_absent_modalities_changes_no_loss_and_no_gradient(
        self, make: Callable[..., Any], batch: EncodedRows, name: str, options: dict[str, Any]
    ) -> None:
        features, present, _ = batch
        other = features.nan_to_num(nan=7.0)
        terms, grads = gradients(make, name, options, batch)
        terms_again, grads_again = gradients(make, name, options, batch._replace(features=other))
        assert terms.keys() == terms_again.keys()
        for one, two in zip(
            [*terms.values(), *grads], [*terms_again.values(), *grads_again], strict=True
        ):
            assert one.isfinite().all()
            assert one.equal(two)
        assert not grads[-1][~present].any()

    def test_any_subset_is_answered_whatever_absent_slots_hold(
        self, make: Callable[..., Any], batch: EncodedRows, name: str, options: dict[str, Any]
    ) -> None:
        model, method = make(name, **options)
        model.eval()
        batch = widened(model, batch)
        method.eval()
        features, _, labels = batch
        if method.finishes:
            method.finish(model, batch)
        readouts = {name: method.readout(model), **method.references(model, lambda: batch)}
        for readout in readouts.values():
            readout.calibrate(NAMES, batch)
            for subset in subsets(NAMES):
                mask = subset_mask(subset, NAMES).expand(len(labels), -1)
                whole = torch.randn(features.shape, generator=torch.Generator().manual_seed(3))
                probabilities, weights = readout(whole, mask)
                holed, _ = readout(whole.masked_fill(~mask.unsqueeze(-1), float("nan")), mask)
                assert probabilities.equal(holed), subset_name(subset)
                assert probabilities.sum(dim=1).allclose(torch.ones(len(labels)))
                if weights is not None:
                    assert not weights[~mask].any()
                    assert weights.sum(dim=1).allclose(torch.ones(len(labels)))

    def test_answer_does_not_depend_on_the_rest_of_the_batch(
        self, make: Callable[..., Any], batch: EncodedRows, name: str, options: dict[str, Any]
    ) -> None:
        model, method = make(name, **options)
        model.eval()
        batch = widened(model, batch)
        method.eval()
        readout = method.readout(model)
        readout.calibrate(NAMES, batch)
        together, _ = readout(*batch[:2])
        alone, _ = readout(batch[0][5:6], batch[1][5:6])
        assert together[5:6].allclose(alone, atol=1e-6)

    def test_row_without_modalities_has_no_gradient(
        self, make: Callable[..., Any], batch: EncodedRows, name: str, options: dict[str, Any]
    ) -> None:
        features, present, labels = batch
        present = present.clone()
        present[0] = False
        terms, grads = gradients(make, name, options, EncodedRows(features, present, labels))
        assert all(bool(value.isfinite().all()) for value in [*terms.values(), *grads])
        assert not grads[-1][0].any()


def test_all_methods_have_the_same_number_of_trials() -> None:
    grids = [method_class(name).TRIALS for name in METHODS]
    assert {len(grid) for grid in grids} == {3}
    for name in METHODS:
        cls = method_class(name)
        assert cls.TRIALS[0].options == {}
        assert cls.TRIALS[0].learning_rate == 1
        assert len({cls.Options.model_validate(dict(t.options)) for t in cls.TRIALS}) > 1 or (
            len({t.learning_rate for t in cls.TRIALS}) == 3
        )

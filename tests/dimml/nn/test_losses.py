"""The cross-entropy terms of `dimml.nn.losses` against loops in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dimml.nn.losses import masked_cross_entropy, modality_cross_entropy
from tests.dimml.nn.loss_inputs import (
    EVERYWHERE,
    NAMES,
    NAN,
    PRESENT,
    SAMPLES,
    gradients,
    leaves,
    literal_cross_entropy,
    random_values,
    with_nan_where_absent,
)

CLASSES = 4


def literal_mean_cross_entropy(logits: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    rows = [i for i in range(len(labels)) if present[i]]
    terms = [literal_cross_entropy(logits[i], int(labels[i])) for i in rows]
    return sum(terms, torch.zeros((), dtype=torch.float64)) / max(1, len(terms))


class TestMaskedCrossEntropy:
    logits = random_values(("audio",), CLASSES)["audio"]
    labels = torch.tensor([0, 3, 1, 2, 2, 0, 1])

    @pytest.mark.parametrize("name", NAMES)
    def test_cross_entropy_averages_over_present_rows(self, name: str) -> None:
        logits = self.logits.clone().requires_grad_()
        loss = masked_cross_entropy(logits, self.labels, PRESENT[name])
        literal_logits = self.logits.clone().requires_grad_()
        literal = literal_mean_cross_entropy(literal_logits, self.labels, PRESENT[name])
        torch.testing.assert_close(loss, literal)
        loss.backward()
        literal.backward()
        torch.testing.assert_close(logits.grad, literal_logits.grad)

    def test_cross_entropy_with_full_mask_averages_over_all_rows(self) -> None:
        all_present = EVERYWHERE["audio"]
        torch.testing.assert_close(
            masked_cross_entropy(self.logits, self.labels, all_present),
            literal_mean_cross_entropy(self.logits, self.labels, all_present),
        )

    def test_absent_rows_may_hold_nan_and_invalid_labels(self) -> None:
        present = PRESENT["audio"]
        clean = self.logits.clone().requires_grad_()
        dirty = self.logits.masked_fill(~present.unsqueeze(1), NAN).requires_grad_()
        clean_loss = masked_cross_entropy(clean, self.labels, present)
        dirty_loss = masked_cross_entropy(dirty, self.labels.where(present, -7), present)
        assert dirty_loss.equal(clean_loss)
        clean_loss.backward()
        dirty_loss.backward()
        assert dirty.grad.equal(clean.grad)
        assert (dirty.grad[~present] == 0).all()
        assert (dirty.grad[present] != 0).all()

    @pytest.mark.parametrize("rows", [0, SAMPLES])
    def test_cross_entropy_of_no_rows_is_a_differentiable_zero(self, rows: int) -> None:
        logits = torch.full((rows, CLASSES), NAN, requires_grad=True)
        nothing = torch.zeros(rows, dtype=torch.bool)
        loss = masked_cross_entropy(logits, torch.zeros(rows, dtype=torch.int64), nothing)
        loss.backward()
        assert loss.item() == 0
        assert logits.grad.equal(torch.zeros(rows, CLASSES))

    @pytest.mark.parametrize(
        ("logits", "labels", "present", "message"),
        [
            (torch.ones(3), torch.zeros(3), torch.ones(3).bool(), r"got \[3\] and \[3\]"),
            (torch.ones(3, 2), torch.zeros(2), torch.ones(2).bool(), r"got \[3, 2\] and \[2\]"),
            (torch.ones(3, 2), torch.zeros(3), torch.tensor([True]), r"bool of shape \[3\]"),
            (torch.ones(3, 2), torch.zeros(3), torch.tensor([1, 0, 1]), "got torch.int64"),
        ],
    )
    def test_cross_entropy_rejects_mismatched_shapes_and_masks(
        self, logits, labels, present, message
    ) -> None:
        with pytest.raises(ValueError, match=message):
            masked_cross_entropy(logits, labels.long(), present)


class TestModalityCrossEntropy:
    labels = torch.tensor([0, 3, 1, 2, 2, 0, 1])

    @pytest.mark.parametrize("names", [NAMES[:1], NAMES[:2], NAMES])
    @pytest.mark.parametrize("missing", [False, True])
    def test_modality_cross_entropy_sums_the_means_of_modalities(
        self, names: tuple[str, ...], missing: bool
    ) -> None:
        values = random_values(names, CLASSES)
        inputs = leaves(with_nan_where_absent(values) if missing else values)
        literal_inputs = leaves(values)
        present = PRESENT if missing else EVERYWHERE
        loss = modality_cross_entropy(inputs, self.labels, present)
        literal = sum(
            literal_mean_cross_entropy(z, self.labels, present[name])
            for name, z in literal_inputs.items()
        )
        torch.testing.assert_close(loss, literal)
        torch.testing.assert_close(gradients(loss, inputs), gradients(literal, literal_inputs))

    def test_modality_without_rows_adds_nothing(self) -> None:
        logits = random_values(NAMES[:2], CLASSES)
        present = {"audio": PRESENT["audio"], "image": torch.zeros(SAMPLES, dtype=torch.bool)}
        assert modality_cross_entropy(logits, self.labels, present).equal(
            masked_cross_entropy(logits["audio"], self.labels, present["audio"])
        )

    def test_modality_cross_entropy_rejects_missing_modalities_and_masks(self) -> None:
        with pytest.raises(ValueError, match="at least one modality"):
            modality_cross_entropy({}, self.labels, {})
        with pytest.raises(ValueError, match=r"present lacks \['image'\]"):
            modality_cross_entropy(
                random_values(NAMES[:2], CLASSES), self.labels, {"audio": PRESENT["audio"]}
            )

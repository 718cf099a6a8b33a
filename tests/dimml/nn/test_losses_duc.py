"""The DUC loss against the formulas of the paper, computed with loops in float64."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from dimml.nn.losses import duc_loss
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

DIMS = 6

# One column per dimension. Selections between the modalities are shared, one-way and empty.
EFFECTIVE = {
    "audio": torch.tensor([1, 1, 0, 0, 1, 0], dtype=torch.bool),
    "image": torch.tensor([0, 1, 1, 0, 0, 1], dtype=torch.bool),
    "text": torch.tensor(
        [1, 1, 0, 0, 0, 0], dtype=torch.bool
    ),  # a subset of audio, so S is empty from text to audio
}


def literal_pair(
    teacher: Tensor,
    student: Tensor,
    selected: list[int],
    rows: list[int],
    temperature: float,
    normalize: bool,
) -> Tensor:
    """Return L(t->s), computed from single products."""

    def vector(values: Tensor, i: int) -> list[Tensor]:
        restricted = [values[i, d] for d in selected]
        length = torch.sqrt(sum(x * x for x in restricted)) if normalize else 1.0
        return [x / length for x in restricted]

    total = torch.zeros((), dtype=torch.float64)
    for position, i in enumerate(rows):
        logits = []
        for j in rows:
            pairs = zip(vector(student, i), vector(teacher.detach(), j), strict=True)
            logits.append(sum(a * b for a, b in pairs) / temperature)
        total = total + literal_cross_entropy(torch.stack(logits), position)
    return total / len(rows)


def literal_duc(
    features: Mapping[str, Tensor],
    effective: Mapping[str, Tensor],
    temperature: float,
    present: Mapping[str, Tensor] = EVERYWHERE,
    normalize: bool = False,
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for t in features:
        for s in features:
            selected = [d for d in range(DIMS) if effective[t][d] and not effective[s][d]]
            rows = [i for i in range(SAMPLES) if present[t][i] and present[s][i]]
            if t != s and selected and rows:
                total = total + literal_pair(
                    features[t], features[s], selected, rows, temperature, normalize
                )
    return total / (len(features) - 1)


class TestDucLoss:
    @pytest.mark.parametrize("names", [NAMES[:2], NAMES[1:], NAMES])
    @pytest.mark.parametrize("missing", [False, True])
    @pytest.mark.parametrize("normalize", [False, True])
    @pytest.mark.parametrize("temperature", [0.5, 10.0])
    def test_duc_loss_and_gradients_follow_the_definition(
        self, names: tuple[str, ...], missing: bool, normalize: bool, temperature: float
    ) -> None:
        values = random_values(names, DIMS)
        present = PRESENT if missing else EVERYWHERE
        inputs, literal_inputs = leaves(values), leaves(values)
        loss = duc_loss(inputs, EFFECTIVE, temperature, present, normalize)
        literal = literal_duc(literal_inputs, EFFECTIVE, temperature, present, normalize)
        assert loss.item() > 0
        torch.testing.assert_close(loss, literal)
        torch.testing.assert_close(gradients(loss, inputs), gradients(literal, literal_inputs))

    def test_duc_loss_equals_a_value_computed_by_hand(self) -> None:
        # One dimension; logits are the outer product of (1, -1) and (2, 0), divided by tau = 2.
        features = {"t": torch.tensor([[2.0], [0.0]]), "s": torch.tensor([[1.0], [-1.0]])}
        effective = {"t": torch.tensor([True]), "s": torch.tensor([False])}
        present = {"t": torch.tensor([True, True]), "s": torch.tensor([True, True])}
        # The loss of both rows is log(1 + exp(-1)): logits (1, 0) for row 0, (-1, 0) for row 1.
        expected = torch.log1p(torch.exp(torch.tensor(-1.0)))
        torch.testing.assert_close(duc_loss(features, effective, 2.0, present), expected)

    def test_duc_loss_of_two_modalities_sums_both_directions(self) -> None:
        features = random_values(NAMES[:2], DIMS)
        none = torch.zeros(DIMS, dtype=torch.bool)
        audio_not_image = EFFECTIVE["audio"] & ~EFFECTIVE["image"]
        image_not_audio = EFFECTIVE["image"] & ~EFFECTIVE["audio"]
        forth = duc_loss(features, {"audio": audio_not_image, "image": none}, 10.0, EVERYWHERE)
        back = duc_loss(features, {"audio": none, "image": image_not_audio}, 10.0, EVERYWHERE)
        assert forth.item() != back.item()
        torch.testing.assert_close(duc_loss(features, EFFECTIVE, 10.0, EVERYWHERE), forth + back)

    def test_gradients_reach_only_dimensions_the_student_lacks(self) -> None:
        features = leaves(random_values(NAMES[:2], DIMS))
        teacher_only = {"audio": EFFECTIVE["audio"], "image": torch.zeros(DIMS, dtype=torch.bool)}
        loss = duc_loss(features, teacher_only, 10.0, EVERYWHERE)
        grads = gradients(loss, features)
        assert (grads["audio"] == 0).all()
        assert (grads["image"][:, ~EFFECTIVE["audio"]] == 0).all()
        assert (grads["image"][:, EFFECTIVE["audio"]] != 0).all()

    def test_modality_learns_only_in_ineffective_dimensions(self) -> None:
        features = leaves(random_values(NAMES, DIMS))
        grads = gradients(duc_loss(features, EFFECTIVE, 10.0, EVERYWHERE), features)
        for name, grad in grads.items():
            others = [EFFECTIVE[other] for other in NAMES if other != name]
            taught = torch.stack(others).any(dim=0) & ~EFFECTIVE[name]
            assert (grad[:, ~taught] == 0).all()
            assert (grad[:, taught] != 0).all()

    @pytest.mark.parametrize("normalize", [False, True])
    def test_duc_loss_ignores_nan_in_absent_rows(self, normalize: bool) -> None:
        values = random_values(NAMES, DIMS)
        clean, dirty = leaves(values), leaves(with_nan_where_absent(values))
        clean_loss = duc_loss(clean, EFFECTIVE, 10.0, PRESENT, normalize)
        dirty_loss = duc_loss(dirty, EFFECTIVE, 10.0, PRESENT, normalize)
        assert dirty_loss.equal(clean_loss)
        clean_grads, dirty_grads = gradients(clean_loss, clean), gradients(dirty_loss, dirty)
        for name in NAMES:
            assert dirty_grads[name].equal(clean_grads[name])
            assert (dirty_grads[name][~PRESENT[name]] == 0).all()
            assert dirty_grads[name].any()

    def test_duc_loss_does_not_depend_on_modality_order(self) -> None:
        features = random_values(NAMES, DIMS)
        backwards = {name: features[name] for name in reversed(NAMES)}
        torch.testing.assert_close(
            duc_loss(backwards, EFFECTIVE, 10.0, PRESENT),
            duc_loss(features, EFFECTIVE, 10.0, PRESENT),
        )

    @pytest.mark.parametrize(
        ("effective", "present"),
        [
            pytest.param(dict.fromkeys(NAMES, EFFECTIVE["audio"]), EVERYWHERE, id="no selection"),
            pytest.param(
                EFFECTIVE,
                {name: torch.arange(SAMPLES) % 3 == m for m, name in enumerate(NAMES)},
                id="no common row",
            ),
            pytest.param(
                EFFECTIVE,
                dict.fromkeys(NAMES, torch.arange(SAMPLES) == 4),
                id="one common row, so no contrast",
            ),
            pytest.param(
                EFFECTIVE, dict.fromkeys(NAMES, torch.zeros(SAMPLES).bool()), id="all absent"
            ),
        ],
    )
    @pytest.mark.parametrize("names", [NAMES[:1], NAMES[:2], NAMES])
    def test_duc_loss_without_pairs_is_a_differentiable_zero(
        self, names: tuple[str, ...], effective: dict[str, Tensor], present: dict[str, Tensor]
    ) -> None:
        values = random_values(names, DIMS)
        values = {n: v.masked_fill(~present[n].unsqueeze(1), NAN) for n, v in values.items()}
        features = leaves(values)
        loss = duc_loss(features, effective, 10.0, present)
        loss.backward()
        assert loss.item() == 0
        for values in features.values():
            assert values.grad is not None
            assert (values.grad == 0).all()

    def test_duc_loss_of_an_empty_batch_is_zero(self) -> None:
        features = {name: torch.zeros(0, DIMS) for name in NAMES}
        present = {name: torch.zeros(0, dtype=torch.bool) for name in NAMES}
        assert duc_loss(features, EFFECTIVE, 10.0, present).item() == 0

    def test_normalised_duc_loss_ignores_vector_lengths(self) -> None:
        features = random_values(NAMES, DIMS)
        scaled = {name: values * 37.0 for name, values in features.items()}
        torch.testing.assert_close(
            duc_loss(scaled, EFFECTIVE, 0.5, EVERYWHERE, normalize=True),
            duc_loss(features, EFFECTIVE, 0.5, EVERYWHERE, normalize=True),
        )
        plain = duc_loss(features, EFFECTIVE, 0.5, EVERYWHERE)
        assert duc_loss(scaled, EFFECTIVE, 0.5, EVERYWHERE) > 2 * plain

    def test_zero_vector_gets_no_gradient_when_normalised(self) -> None:
        # A ReLU can output a zero row. Division by its length would give gradients of about 1e12.
        values = random_values(NAMES[:2], DIMS)
        values["image"][2] = 0
        features = leaves(values)
        loss = duc_loss(features, EFFECTIVE, 0.5, EVERYWHERE, normalize=True)
        grads = gradients(loss, features)
        assert (grads["image"][2] == 0).all()
        assert 0 < grads["image"].abs().max() < 10

    def test_duc_loss_of_large_products_does_not_overflow(self) -> None:
        features = {name: values * 1e4 for name, values in random_values(NAMES, DIMS).items()}
        assert duc_loss(features, EFFECTIVE, 1.0, EVERYWHERE).isfinite()

    def test_duc_loss_in_half_precision_does_not_overflow(self) -> None:
        # 300 * 300 exceeds the largest float16, 65,504, before the division by the temperature.
        values = {name: 300 * torch.ones(SAMPLES, DIMS).double() for name in NAMES}
        half = {name: value.half() for name, value in values.items()}
        expected = duc_loss(values, EFFECTIVE, 50.0, EVERYWHERE)
        torch.testing.assert_close(
            duc_loss(half, EFFECTIVE, 50.0, EVERYWHERE).double(), expected, rtol=1e-2, atol=0
        )

    @pytest.mark.parametrize("temperature", [0.0, -1.0, NAN, float("inf")])
    def test_duc_loss_rejects_invalid_temperatures(self, temperature: float) -> None:
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            duc_loss(random_values(NAMES, DIMS), EFFECTIVE, temperature, EVERYWHERE)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"features": {}}, "at least one modality"),
            ({"effective": {"audio": EFFECTIVE["audio"]}}, r"effective lacks \['image', 'text'\]"),
            ({"present": {"audio": PRESENT["audio"]}}, r"present lacks \['image', 'text'\]"),
            ({"features": {"audio": torch.ones(2, 3), "text": torch.ones(2, 4)}}, "alike"),
            ({"features": {"audio": torch.ones(2, 3), "text": torch.ones(1, 3)}}, "alike"),
            ({"features": {"audio": torch.ones(2)}}, r"\[samples, dimensions\]"),
            ({"effective": EFFECTIVE | {"text": torch.ones(5).bool()}}, r"effective\['text'\]"),
            ({"effective": EFFECTIVE | {"text": torch.ones(6).int()}}, "got torch.int32"),
            ({"present": PRESENT | {"text": torch.ones(6).bool()}}, r"present\['text'\]"),
            ({"present": PRESENT | {"text": torch.ones(7).int()}}, "got torch.int32"),
        ],
    )
    def test_duc_loss_rejects_mismatched_arguments(self, changed, message) -> None:
        arguments = {"features": random_values(NAMES, DIMS), "effective": EFFECTIVE, **changed}
        with pytest.raises(ValueError, match=message):
            duc_loss(temperature=10.0, **{"present": EVERYWHERE, **arguments})

"""`CertaintyFusion.set_calibration`: copies valid values, and rejects invalid values as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dimml.nn.fusion import CertaintyFusion

NAN = float("nan")
DIMS, CLASSES = 5, 4


def assert_close(actual: Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype))


class TestCalibration:
    valid = ([0.5, 2.0], 0.7, [1.0, 1.0, 1.0, 3.0], [0.3, -0.3])

    def test_calibration_is_part_of_the_state_dict(self) -> None:
        fusion = CertaintyFusion(DIMS, CLASSES, 2)
        fusion.set_calibration(*self.valid)
        state = fusion.state_dict()
        assert set(state) == {
            "classifier.weight",
            "classifier.bias",
            "modality_temperature",
            "fusion_temperature",
            "subset_temperature",
            "modality_bias",
            *(f"distance.{name}" for name in ("mean", "whitening", "class_means")),
        }
        assert_close(state["modality_temperature"], self.valid[0])
        assert_close(state["fusion_temperature"], self.valid[1])
        assert_close(state["subset_temperature"], self.valid[2])
        assert_close(state["modality_bias"], self.valid[3])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_set_calibration_copies_tensors(self, dtype: torch.dtype) -> None:
        fusion = CertaintyFusion(DIMS, CLASSES, 2)
        arguments = [torch.tensor(values, dtype=dtype, requires_grad=True) for values in self.valid]
        fusion.set_calibration(*arguments)
        with torch.no_grad():
            for values in arguments:
                values.fill_(9.0)
        for buffer, values in zip(fusion.buffers(recurse=False), self.valid, strict=True):
            assert_close(buffer, values)
            assert not buffer.requires_grad
            assert buffer.dtype == torch.float32

    @pytest.mark.parametrize(
        ("position", "value", "message"),
        [
            (0, [0.5], r"modality_temperature must have shape \[2\], got \[1\]"),
            (0, [0.5, 0.0], "modality_temperature must be positive and finite"),
            (0, [0.5, -2.0], "modality_temperature must be positive and finite"),
            (0, [0.5, NAN], "modality_temperature must be positive and finite"),
            # Positive in float64, but 0 in float32, the type of the buffer.
            (
                0,
                torch.tensor([0.5, 1e-60], dtype=torch.float64),
                "modality_temperature must be positive and finite",
            ),
            (1, 0.0, "fusion_temperature must be positive and finite"),
            (1, float("inf"), "fusion_temperature must be positive and finite"),
            (1, [0.7], r"fusion_temperature must have shape \[\], got \[1\]"),
            (2, [1.0, 1.0, 3.0], r"subset_temperature must have shape \[4\], got \[3\]"),
            (2, [1.0, 1.0, 1.0, -3.0], "subset_temperature must be positive and finite"),
            (2, [1.0, 1.1, 1.0, 3.0], "one-modality subsets"),
            (2, [1.0, 1.0, 0.9, 3.0], "one-modality subsets"),
            (3, [0.1], r"modality_bias must have shape \[2\], got \[1\]"),
            (3, [0.1, NAN], "modality_bias must be finite"),
        ],
    )
    def test_invalid_calibration_changes_nothing(
        self, position: int, value: object, message: str
    ) -> None:
        fusion = CertaintyFusion(DIMS, CLASSES, 2)
        arguments = list(self.valid)
        arguments[position] = value
        with pytest.raises(ValueError, match=message):
            fusion.set_calibration(*arguments)
        fresh = CertaintyFusion(DIMS, CLASSES, 2)
        for buffer, default in zip(fusion.buffers(), fresh.buffers(), strict=True):
            assert buffer.equal(default)

    def test_calibration_without_biases_sets_them_to_zero(self) -> None:
        fusion = CertaintyFusion(DIMS, CLASSES, 2)
        fusion.set_calibration(*self.valid)
        fusion.set_calibration(*self.valid[:3])
        assert fusion.modality_bias.tolist() == [0, 0]

    def test_bias_shifts_weight_between_equally_certain_modalities(self) -> None:
        fusion = CertaintyFusion(DIMS, CLASSES, 2)
        fusion.set_calibration([1, 1], 0.7, [1, 1, 1, 1], [0.5, -0.5])
        logits = torch.randn(1, 1, CLASSES).expand(3, 2, CLASSES)
        _, weights = fusion.fuse(logits, torch.tensor([[True, True]] * 3))
        assert_close(weights, [[0.7310586, 0.2689414]] * 3)


@pytest.mark.parametrize("modalities", [0, 11])
def test_unsupported_number_of_modalities_is_rejected(modalities: int) -> None:
    with pytest.raises(ValueError, match=rf"1 \.\. 10, got {modalities}.*doubles"):
        CertaintyFusion(DIMS, CLASSES, modalities)

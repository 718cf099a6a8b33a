from __future__ import annotations

import torch

from dimml.nn.heads import PrivateClassifiers


def test_private_classifiers_use_one_linear_layer_per_modality() -> None:
    classifiers = PrivateClassifiers(3, 5, 4)
    features = torch.randn(2, 3, 5)
    logits = classifiers(features)
    assert logits.shape == (2, 3, 4)
    for slot in range(3):
        expected = features[:, slot] @ classifiers.weight[slot].T + classifiers.bias[slot]
        assert logits[:, slot].allclose(expected, atol=1e-6)

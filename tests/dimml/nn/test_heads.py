from __future__ import annotations

import torch

from dimml.nn.heads import PrivateClassifiers


def test_private_classifiers_use_one_linear_layer_per_modality() -> None:
    heads = PrivateClassifiers(3, 5, 4)
    features = torch.randn(2, 3, 5)
    logits = heads(features)
    assert logits.shape == (2, 3, 4)
    for slot in range(3):
        expected = features[:, slot] @ heads.weight[slot].T + heads.bias[slot]
        assert logits[:, slot].allclose(expected, atol=1e-6)

"""The detached method (DI-MML, arXiv 2407.19514): isolated + shared + DUC losses."""

from __future__ import annotations

from torch import Tensor

from dimml.nn.losses import duc_loss, modality_cross_entropy
from dimml.nn.model import DetachedModel
from train.config import TrainingConfig


def losses(
    model: DetachedModel,
    features: Tensor,
    present: Tensor,
    labels: Tensor,
    config: TrainingConfig,
    interact: bool,
) -> dict[str, Tensor]:
    """The terms of the objective, weighted; their sum is the loss.

    Args:
        model: with its effective dimensions, once known.
        features: [N samples, M modalities, D].
        present: bool [N, M].
        labels: int64 [N].
        config: the weights and temperature.
        interact: whether the warm-up is over, so that the DUC loss takes part.
    """
    slots = dict(enumerate(model.modalities))
    by_name = {name: features[:, slot] for slot, name in slots.items()}
    masks = {name: present[:, slot] for slot, name in slots.items()}
    private = {name: model.private_heads[slot](by_name[name]) for slot, name in slots.items()}
    shared = {name: model.fusion.shared_classifier(values) for name, values in by_name.items()}
    terms = {
        "isolated": modality_cross_entropy(private, labels, masks),
        "shared": config.lambda_shared * modality_cross_entropy(shared, labels, masks),
    }
    if interact:
        effective = {name: model.effective[slot] for slot, name in slots.items()}
        duc = duc_loss(by_name, effective, config.duc_temperature, masks, config.normalize)
        terms["duc"] = config.lambda_duc * duc
    return terms

"""The fit of the interaction heads' shares on the validation split."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dimml.nn.fusion import CertaintyFusion
from dimml.nn.masks import subset_index
from train.calibration import EncodedRows, fit_temperature, subset_rows

SHARES = tuple(np.linspace(0.05, 1.0, 20))
"""The shares that are tried."""
TOLERANCE = 1e-4
"""Losses in nats that differ by less count as equal."""
MIN_ROWS = 20
"""The least number of rows of a subset from which a share is fitted."""
STANDARD_ERRORS = 2.0
"""A gain of fewer standard errors is taken for noise."""


@torch.no_grad()
def fit_shares(
    fusion: CertaintyFusion,
    modalities: tuple[str, ...],
    rows: EncodedRows,
    shares: tuple[float, ...] = SHARES,
) -> None:
    """Fit the share of each head in the answer of each subset, by the negative log-likelihood.

    A subset has a share only if it has `MIN_ROWS` and the mixture's likelihood is better than the
    late answer's by more than `STANDARD_ERRORS`, row by row. The head that gains most over all
    subsets takes part; the others have a share of 0.

    Args:
        fusion: The fusion, whose late answer is calibrated; its interaction is changed.
        modalities: Names in slot order.
        rows: Labelled rows of the validation split.
        shares: The shares that are tried.
    """
    interaction = fusion.interaction
    if interaction is None:
        return
    reset_shares(fusion)
    share = torch.zeros_like(interaction.share)
    head_temperature = torch.ones_like(share)
    mixture_temperature = torch.ones_like(share)
    gains = torch.zeros(len(interaction.heads))
    for subset, chosen, mask in subset_rows(modalities, rows.present):
        if len(subset) < 2 or ("paper" in interaction.heads and len(subset) < len(modalities)):
            continue
        if len(mask) < MIN_ROWS:
            continue
        features, labels = rows.features[chosen], rows.labels[chosen]
        late, joint_logits = _answers(fusion, features, mask)
        before = functional.cross_entropy(late, labels, reduction="none")
        index = subset_index(mask[0])
        for number, joint in enumerate(joint_logits.unbind(dim=1)):
            own = fit_temperature(joint, labels)
            after, best, temperature = _best_share(late, joint / own, labels, shares)
            gain = before - after
            if is_beyond_noise(gain):
                share[number, index] = best
                head_temperature[number, index] = own
                mixture_temperature[number, index] = temperature
                gains[number] += gain.mean()
    best_head = int(gains.argmax())
    others = torch.arange(len(gains)) != best_head
    share[others], head_temperature[others] = 0, 1
    interaction.set_shares(share, head_temperature, mixture_temperature[best_head])


def is_beyond_noise(gain: Tensor) -> bool:
    """Return whether the mean of the rows' gains [N] exceeds `STANDARD_ERRORS` of it."""
    return bool(gain.mean() > STANDARD_ERRORS * gain.std() / len(gain) ** 0.5)


def reset_shares(fusion: CertaintyFusion) -> None:
    """Let no interaction head take part."""
    interaction = fusion.interaction
    if interaction is not None:
        share = torch.zeros_like(interaction.share)
        interaction.set_shares(
            share, torch.ones_like(share), torch.ones_like(interaction.mixture_temperature)
        )


def _answers(fusion: CertaintyFusion, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithm of the answer without heads [N, K], and the heads' logits [N, H, K]."""
    logits, scale = fusion.classify(features, mask)
    probabilities, _ = fusion.fuse(logits / fusion.modality_temperature.unsqueeze(-1), mask)
    joint = fusion.joint_logits(features, mask, scale)
    assert joint is not None
    return probabilities.clamp_min(1e-30).log(), joint


def _best_share(
    late: Tensor, joint: Tensor, labels: Tensor, shares: tuple[float, ...]
) -> tuple[Tensor, float, float]:
    """Return the rows' losses with the best share, that share, and the mixture's temperature."""
    joint = joint.log_softmax(dim=-1)
    found = []
    for share in shares:
        mixture = (1 - share) * late + share * joint
        temperature = fit_temperature(mixture, labels)
        losses = functional.cross_entropy(mixture / temperature, labels, reduction="none")
        found.append((float(losses.mean()), losses, share, temperature))
    least = min(loss for loss, *_ in found)
    # A late answer that says nothing is flat, and any share of it gives the same mixture: the
    # largest share of the head is the true one.
    _, losses, share, temperature = [one for one in found if one[0] <= least + TOLERANCE][-1]
    return losses, share, temperature


def any_informative(fusion: CertaintyFusion, rows: EncodedRows) -> bool:
    """Return whether a modality alone is right more often than the most frequent class.

    Args:
        fusion: The fusion of a model in training.
        rows: Labelled rows of the validation split.
    """
    answers = fusion.classify(rows.features, rows.present)[0].argmax(dim=-1)
    for slot in range(rows.present.shape[1]):
        has = rows.present[:, slot]
        labels = rows.labels[has]
        if not len(labels):
            continue
        chance = float(labels.bincount().max() / len(labels))
        accuracy = float((answers[has, slot] == labels).float().mean())
        error = (chance * (1 - chance) / len(labels)) ** 0.5
        if accuracy > chance + STANDARD_ERRORS * error:
            return True
    return False

"""The fit of the interaction heads' shares on the validation split."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dimml.nn.fusion import CertaintyFusion
from train.calibration import EncodedRows, FusionAnswers
from train.subset_blocks import SubsetBlock
from train.temperatures import MIN_ROWS, fit_temperatures

SHARES = tuple(np.linspace(0.05, 1.0, 20))
"""The shares that are tried."""
TOLERANCE = 1e-4
"""Losses in nats that differ by less count as equal."""
STANDARD_ERRORS = 2.0
"""A gain of fewer standard errors is taken for noise."""


@torch.no_grad()
def fit_shares(
    fusion: CertaintyFusion, rows: EncodedRows, shares: tuple[float, ...] = SHARES
) -> None:
    """Fit the share of each head in the answer of each subset, by the negative log-likelihood.

    A subset has a share only if it has `MIN_ROWS` and the mixture's likelihood is better than the
    late answer's by more than `STANDARD_ERRORS`, row by row. The head that gains most over all
    subsets takes part; the others have a share of 0.

    Args:
        fusion: The fusion, whose late answer is calibrated; its interaction is changed.
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
    answers = FusionAnswers(fusion, rows)
    smallest = rows.present.shape[1] if "paper" in interaction.heads else 2
    for block in answers.blocks(smallest, MIN_ROWS):
        labels = answers.labels(block)
        late, joint_logits = answers.late(block).clamp_min(1e-30).log(), answers.joint_logits(block)
        assert joint_logits is not None
        before = functional.cross_entropy(late, labels, reduction="none")
        for number, joint in enumerate(joint_logits.unbind(dim=1)):
            own = fit_temperatures(joint, labels, block.segment, len(block.subsets))
            joint = joint / own[block.segment].unsqueeze(1)
            after, best, temperature = _best_shares(late, joint, labels, block, shares)
            gain = before - after
            helps = are_beyond_noise(gain, block)
            subsets = block.subsets[helps]
            share[number, subsets] = best[helps]
            head_temperature[number, subsets] = own[helps]
            mixture_temperature[number, subsets] = temperature[helps]
            gains[number] += float(block.mean(gain)[helps].sum())
    best_head = int(gains.argmax())
    others = torch.arange(len(gains)) != best_head
    share[others], head_temperature[others] = 0, 1
    interaction.set_shares(share, head_temperature, mixture_temperature[best_head])


def is_beyond_noise(gain: Tensor) -> bool:
    """Return whether the mean of the rows' gains [N] exceeds `STANDARD_ERRORS` of it."""
    return bool(gain.mean() > STANDARD_ERRORS * gain.std() / len(gain) ** 0.5)


def are_beyond_noise(gain: Tensor, block: SubsetBlock) -> Tensor:
    """Return the same as `is_beyond_noise` for each subset of a block, bool [G]; gain is [R]."""
    mean = block.mean(gain)
    squares = (gain - mean[block.segment]).square()
    variance = block.mean(squares) * block.counts / (block.counts - 1)
    return mean > STANDARD_ERRORS * (variance / block.counts).sqrt()


def reset_shares(fusion: CertaintyFusion) -> None:
    """Let no interaction head take part."""
    interaction = fusion.interaction
    if interaction is not None:
        share = torch.zeros_like(interaction.share)
        interaction.set_shares(
            share, torch.ones_like(share), torch.ones_like(interaction.mixture_temperature)
        )


def _best_shares(
    late: Tensor, joint: Tensor, labels: Tensor, block: SubsetBlock, shares: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses [R] with each subset's best share, and these shares and temperatures [G].

    Args:
        late: The logarithm of the late answer, [R, K].
        joint: The calibrated logits of a head, [R, K].
        labels: int64 [R].
        block: The pairs.
        shares: The shares that are tried.
    """
    joint = joint.log_softmax(dim=-1)
    found = []
    for share in shares:
        mixture = (1 - share) * late + share * joint
        temperature = fit_temperatures(mixture, labels, block.segment, len(block.subsets))
        mixture = mixture / temperature[block.segment].unsqueeze(1)
        losses = functional.cross_entropy(mixture, labels, reduction="none")
        found.append((block.mean(losses), losses, temperature))
    means, losses, temperatures = (torch.stack(values) for values in zip(*found, strict=True))
    # A late answer that says nothing is flat, and any share of it gives the same mixture: the
    # largest share of the head is the true one.
    good = means <= means.amin(dim=0) + TOLERANCE
    numbers = torch.arange(len(shares), device=means.device).unsqueeze(1)
    last = torch.where(good, numbers, -1).amax(dim=0)
    subsets = torch.arange(len(last), device=last.device)
    pairs = torch.arange(len(labels), device=last.device)
    values = torch.tensor(shares, dtype=late.dtype, device=last.device)
    return losses[last[block.segment], pairs], values[last], temperatures[last, subsets]


def any_informative(fusion: CertaintyFusion, rows: EncodedRows) -> bool:
    """Return whether a modality alone is right more often than the most frequent class.

    Args:
        fusion: The fusion of a model in training.
        rows: Labelled rows of the validation split.
    """
    blocks = rows.blocks(fusion.classifier.out_features)
    answers = torch.cat([fusion.classify(f, p)[0].argmax(dim=-1) for f, p, _ in blocks])
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

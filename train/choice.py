"""The choice between fusion rules, and what interaction heads add, by cross-validation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dimml.nn.fusion import CertaintyFusion
from dimml.nn.masks import subset_index
from dimml.samples import subset_name, subsets
from train.calibration import EncodedRows, FusionAnswers, Rule, calibrate, subset_mask
from train.interaction import fit_shares, is_beyond_noise, reset_shares
from train.markdown import short_list

DEFAULT_RULE: Rule = "sum"
RULES: tuple[Rule, ...] = (DEFAULT_RULE, "average", "certainty", "pooled")
INTERACTION = "interaction"


@dataclass(frozen=True)
class FusionChoice:
    """How the modalities are joined, and how the alternatives did on validation.

    Attributes:
        rule: The rule of the late fusion.
        head: The interaction head that takes part, or None.
        shares: Subset to the head's share, for subsets with a share.
        figures: Alternative to its mean NLL (nats) and accuracy over rows and their subsets, on
            rows that its calibration did not see. The last two are the chosen rule with
            (`interaction`) and without the heads.
    """

    rule: str
    head: str | None
    shares: Mapping[str, float]
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def summary(self) -> str:
        """Return what was chosen, and by how much it beats the alternatives, in one line."""
        text = f"fusion: {self.rule}"
        others = {name: one for name, one in self.figures.items() if name != INTERACTION}
        if others:
            text += " (validation NLL " + ", ".join(
                f"{name} {one['nll']:.4f}" for name, one in others.items()
            )
            text += ")"
        if self.head is None:
            return f"{text}; no interaction head takes part"
        shares = short_list(f"{subset} {share:.2f}" for subset, share in self.shares.items())
        text += f"; interaction: {self.head}, with shares {shares}"
        if INTERACTION in self.figures:
            before, after = self.figures[self.rule], self.figures[INTERACTION]
            text += (
                f" (validation NLL {before['nll']:.4f} -> {after['nll']:.4f}, accuracy "
                f"{100 * before['accuracy']:.2f} -> {100 * after['accuracy']:.2f} %)"
            )
        return text

    def document(self) -> dict[str, Any]:
        """Return the choice as plain JSON types."""
        return {
            "rule": self.rule,
            "interaction": self.head or "none",
            "shares": dict(self.shares),
            "validation": {name: dict(values) for name, values in self.figures.items()},
        }


@torch.no_grad()
def choose_fusion(
    fusion: CertaintyFusion, modalities: tuple[str, ...], rows: EncodedRows, rule: Rule | None
) -> FusionChoice:
    """Calibrate a fusion by the rule that does best on validation.

    The default rule is kept unless another has a lower negative log-likelihood beyond noise.
    Interaction heads have shares, see `fit_shares`, only if these lower it on rows that they were
    not fitted on.

    Args:
        fusion: The fusion to calibrate.
        modalities: Names in slot order.
        rows: Labelled rows of the validation split.
        rule: The rule, or None to choose.
    """
    scores: dict[str, tuple[Tensor, Tensor]] = {}
    enough = len(modalities) > 1 and len(rows.labels) > 1
    if rule is None:
        rule = DEFAULT_RULE
        if enough:
            rule, scores = _best_rule(fusion, rows)
    heads = fusion.interaction is not None and enough
    if heads:
        if rule not in scores:
            scores[rule] = held_out_scores(fusion, rows, rule, False)
        scores[INTERACTION] = held_out_scores(fusion, rows, rule, True)
        heads = bool(scores[INTERACTION][0].mean() < scores[rule][0].mean())
    calibrate(fusion, rows, rule)
    reset_shares(fusion)
    if heads:
        fit_shares(fusion, rows)
    figures = {name: _means(values) for name, values in scores.items()}
    return FusionChoice(rule, *interaction_shares(fusion, modalities), figures)


def interaction_shares(
    fusion: CertaintyFusion, modalities: tuple[str, ...]
) -> tuple[str | None, dict[str, float]]:
    """Return the interaction head that takes part, if any, and its share by subset."""
    interaction = fusion.interaction
    if interaction is None or not interaction.share.any():
        return None, {}
    names = list(interaction.heads)
    totals = interaction.share.sum(dim=0)
    by_subset = {
        subset_name(subset): float(totals[subset_index(subset_mask(subset, modalities))])
        for subset in subsets(modalities)
    }
    shares = {subset: round(share, 6) for subset, share in by_subset.items() if share > 0}
    return names[int(interaction.share.sum(dim=1).argmax())], shares


def _best_rule(
    fusion: CertaintyFusion, rows: EncodedRows
) -> tuple[Rule, dict[str, tuple[Tensor, Tensor]]]:
    scores: dict[str, tuple[Tensor, Tensor]] = {
        rule: held_out_scores(fusion, rows, rule, False) for rule in RULES
    }
    best: Rule = DEFAULT_RULE
    for rule in RULES[1:]:
        gain = scores[DEFAULT_RULE][0] - scores[rule][0]
        if is_beyond_noise(gain) and scores[rule][0].mean() < scores[best][0].mean():
            best = rule
    return best, scores


def held_out_scores(
    fusion: CertaintyFusion, rows: EncodedRows, rule: Rule, with_heads: bool
) -> tuple[Tensor, Tensor]:
    """Return the NLL and the accuracy of each row, means over its subsets, each [N].

    Two halves of the rows take turns: one calibrates a copy of the fusion, the other is measured.
    """
    copied = copy.deepcopy(fusion)
    if not with_heads:
        copied.interaction = None
    losses, right, counts = (torch.zeros(len(rows.labels)) for _ in range(3))
    for fitted, rest in halves(len(rows.labels)):
        calibrate(copied, rows.select(fitted), rule)
        fit_shares(copied, rows.select(fitted))
        held_out = rows.select(rest)
        answers = FusionAnswers(copied, held_out)
        for block in answers.blocks():
            probabilities, labels = answers(block), answers.labels(block)
            numbers = rest[block.rows]
            log = probabilities.clamp_min(1e-12).log()
            losses.index_add_(0, numbers, functional.nll_loss(log, labels, reduction="none"))
            right.index_add_(0, numbers, (probabilities.argmax(dim=1) == labels).float())
            counts.index_add_(0, numbers, torch.ones_like(labels).float())
    return losses / counts, right / counts


def halves(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield two random halves of `count` row numbers, then the same in the other order."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    first, *second = order.chunk(2)
    rest = second[0] if second else first
    yield from ((first, rest), (rest, first))


def _means(scores: tuple[Tensor, Tensor]) -> dict[str, float]:
    nll, accuracy = scores
    return {"nll": round(float(nll.mean()), 6), "accuracy": round(float(accuracy.mean()), 6)}

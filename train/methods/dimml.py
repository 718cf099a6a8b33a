"""The detached method (DI-MML, arXiv 2407.19514): isolated + shared + DUC losses.

    L = sum_m CE(h_m(f_m), y) + lambda_s sum_m CE(g(f_m), y) + lambda_d L_DUC   (after the warm-up)

Only L_DUC couples the encoders. The shared classifier g answers, weighted by calibrated certainty.

Beside that, interaction heads q learn CE(q(u, present), y) from features u of their own, with
modality dropout. Their gradient stops before the encoders, unless no modality alone tells anything.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import permutations
from typing import Any, Literal

import pydantic
import torch
from torch import Tensor

from dimml.nn.fusion import CertaintyFusion
from dimml.nn.heads import PrivateClassifiers
from dimml.nn.interaction import HeadName, Interaction
from dimml.nn.losses import duc_loss, masked_cross_entropy, modality_cross_entropy
from dimml.nn.model import MultimodalModel
from train.calibration import EncodedRows, FusionAnswers, Rule
from train.choice import FusionChoice
from train.distance import fit_distance
from train.interaction import any_informative, fit_shares
from train.methods.base import UNLABELLED, FeatureSource, Method, drop_modalities
from train.methods.settings import DetachedTraining, MethodOptions
from train.readout import BestUnimodal, FusionReadout, Readout
from train.subset_blocks import SubsetBlock

MODALITY_DROPOUT = 0.3
"""The probability that a modality is left out in the training of the interaction heads."""
COARSE_SHARES = (0.25, 0.5, 0.75, 1.0)
HEADS: dict[str, tuple[HeadName, ...]] = {
    "auto": ("linear", "mlp"),
    "none": (),
    "linear": ("linear",),
    "mlp": ("mlp",),
    "paper": ("paper",),
}
"""The interaction heads that each value of the option `interaction` trains."""
RULES: dict[str, Rule] = {
    "dimml+average": "average",
    "dimml+certainty": "certainty",
    "dimml+pooled": "pooled",
    "dimml+sum": "sum",
}
"""Rows of a comparison, and the rule that joins the modalities in each."""
PLAIN_RULES: dict[str, Rule] = {
    "logit-average": "average",
    "logit-sum": "sum",
    "dimml+paper": "paper",
}
"""Further rows, whose logits are not divided by the distance from the training data."""


class DetachedOptions(MethodOptions):
    """Switches for an ablation, and the rule that joins the modalities.

    Attributes:
        shared: Whether the shared classifier is trained and answers; if not, each modality's own
            head answers.
        duc: Whether the DUC loss takes part after the warm-up.
        fusion: The rule, see `train.calibration`; `paper` is the rule of the source, and `auto`
            chooses on validation.
        interaction: The head that sees the features of all modalities: `linear`, `mlp`, `none`, or
            `auto` to choose on validation. `paper` is stage 2 of the source: a linear head on the
            features of the shared classifier, which answers if every modality is present.
        gradient: Whether the interaction head trains the encoders (`joint`) or not (`detached`).
            `auto` lets it while no modality alone does better than the most frequent class.
    """

    shared: bool = True
    duc: bool = True
    fusion: Literal[Rule, "auto"] = "auto"
    interaction: Literal["auto", "none", "linear", "mlp", "paper"] = "auto"
    gradient: Literal["auto", "detached", "joint"] = "auto"

    @pydantic.model_validator(mode="after")
    def _check_gradient(self) -> DetachedOptions:
        if self.gradient == "joint" and self.interaction in ("none", "paper"):
            raise ValueError(
                f"gradient: joint has no effect with interaction: {self.interaction}; leave one of "
                "them out"
            )
        return self


class Detached(Method):
    """The detached method, see the module."""

    Options = DetachedOptions
    options: DetachedOptions
    training_config: DetachedTraining
    exports = True
    finishes = True
    joint_gradient: Tensor

    def build_heads(self, model: MultimodalModel) -> None:
        self.uses_dimensions = self.options.duc
        slots, classes = len(model.modalities), model.fusion.classifier.out_features
        if not self.options.shared:
            model.fusion.classifier = PrivateClassifiers(slots, model.fusion.feature_dim, classes)
        heads = HEADS[self.options.interaction]
        if heads and slots > 1:
            model.add_interaction(heads)
        joint = torch.tensor(self.options.gradient == "joint")
        self.register_buffer("joint_gradient", joint)

    def start_epoch(self, model: MultimodalModel) -> None:
        for branches in model.branches:
            branches.detached = not bool(self.joint_gradient)

    def inspect_validation(self, model: MultimodalModel, rows: EncodedRows) -> None:
        """Choose the gradient of the next epoch, and shares that suit the heads of this epoch."""
        if model.fusion.interaction is None:
            return
        if self.options.gradient == "auto":
            self.joint_gradient.fill_(not any_informative(model.fusion, rows))
        sample = rows.to_fit(model.fusion.classifier.out_features)
        fit_shares(model.fusion, sample, COARSE_SHARES)

    def uses_unlabelled(self, epochs: int) -> bool:
        config = self.training_config
        return self.options.duc and config.lambda_duc > 0 and config.warm_up < epochs

    def needs_dimensions(self, epoch: int) -> bool:
        since, every = epoch - self.training_config.warm_up, self.training_config.recompute_every
        if since < 0 or not self.options.duc:
            return False
        return since == 0 if every is None else since % every == 0

    def losses(self, model: MultimodalModel, rows: EncodedRows, epoch: int) -> dict[str, Tensor]:
        config, labels, weights = self.training_config, rows.labels, self.class_weights
        late = rows.features[..., : model.fusion.feature_dim]
        features = self.by_modality(late)
        labelled = self.by_modality(rows.present & (labels != UNLABELLED)[:, None])
        if self.options.shared:
            heads = zip(features, model.private_heads, strict=True)
            private = {name: head(features[name]) for name, head in heads}
            shared = {name: model.fusion.classifier(value) for name, value in features.items()}
            loss = modality_cross_entropy(shared, labels, labelled, weights)
            terms = {
                "isolated": modality_cross_entropy(private, labels, labelled, weights),
                "shared": config.lambda_shared * loss,
            }
        else:
            own = self.by_modality(model.fusion.classifier(late))
            terms = {"isolated": modality_cross_entropy(own, labels, labelled, weights)}
        if self.options.duc and config.lambda_duc > 0 and epoch >= config.warm_up:
            effective = dict(zip(self.modalities, model.effective, strict=True))
            # The DUC loss needs no label, so rows without one take part.
            present = self.by_modality(rows.present)
            duc = duc_loss(features, effective, config.duc_temperature, present, config.normalize)
            terms["duc"] = config.lambda_duc * duc
        if model.fusion.interaction is not None:
            terms["interaction"] = self._interaction_loss(model.fusion.interaction, rows)
        return terms

    def _interaction_loss(self, interaction: Interaction, rows: EncodedRows) -> Tensor:
        """Return the sum of the heads' cross-entropies, on rows that have what the heads need."""
        if "paper" in interaction.heads:
            features, kept = rows.features.detach(), rows.present
            takes_part = kept.all(dim=1)
        else:
            kept = drop_modalities(rows.present, MODALITY_DROPOUT, keep=2)
            features, takes_part = rows.features, kept.sum(dim=1) >= 2
        takes_part = takes_part & (rows.labels != UNLABELLED)
        logits = interaction(features, kept).unbind(dim=1)
        losses = [
            masked_cross_entropy(one, rows.labels, takes_part, self.class_weights) for one in logits
        ]
        return torch.stack(losses).sum()

    def finish(self, model: MultimodalModel, rows: EncodedRows) -> None:
        """Measure where the features of the training split lie."""
        if self.options.fusion != "paper":
            late = rows.features[..., : model.fusion.feature_dim]
            fit_distance(model.fusion.distance, rows._replace(features=late))

    def subset_answers(
        self, model: MultimodalModel, rows: EncodedRows
    ) -> Callable[[SubsetBlock], Tensor]:
        answers = FusionAnswers(model.fusion, rows)
        return lambda block: answers(block).clamp_min(1e-30).log()

    def readout(self, model: MultimodalModel) -> Readout:
        return FusionReadout(model.fusion, self.options.fusion)

    def served_options(self, choice: FusionChoice) -> dict[str, Any]:
        return {"interaction": choice.head or "none"}

    def dimension_sets(self, model: MultimodalModel) -> dict[str, dict[str, int]] | None:
        """Return how many dimensions are effective, and how many each pair's student learns."""
        if not self.uses_dimensions:
            return None
        effective = dict(zip(model.modalities, model.effective, strict=True))
        return {
            "effective": {name: int(dimensions.sum()) for name, dimensions in effective.items()},
            "selected": {
                f"{teacher}->{student}": int((effective[teacher] & ~effective[student]).sum())
                for teacher, student in permutations(effective, 2)
            },
        }

    def references(self, model: MultimodalModel, training: FeatureSource) -> Mapping[str, Readout]:
        """Return the simplest answers, and an ablation of the fusion that changes one thing each.

        Each row gets its own copy of the fusion, because calibration changes the fusion.
        """
        readouts: dict[str, Readout] = {"best-unimodal": BestUnimodal(model.fusion)}
        for name, rule in RULES.items():
            readouts[name] = FusionReadout(late_only(model.fusion), rule)
        for name, rule in PLAIN_RULES.items():
            readouts[name] = FusionReadout(late_only(model.fusion, distance=False), rule)
        both = late_only(model.fusion)
        both.classifier = both_heads(model)
        readouts["dimml+both-heads"] = FusionReadout(both, "sum")
        return readouts


def late_only(fusion: CertaintyFusion, distance: bool = True) -> CertaintyFusion:
    """Return a copy of a fusion without the interaction heads.

    Args:
        fusion: The fusion.
        distance: Whether the copy divides logits by the distance from the training data.
    """
    copied = copy.deepcopy(fusion)
    copied.interaction = None
    if not distance:
        for buffer in copied.distance.buffers():
            buffer.zero_()
    return copied


def both_heads(model: MultimodalModel) -> PrivateClassifiers:
    """Return heads whose logits are the mean of the private head's and the shared classifier's."""
    shared = model.fusion.classifier
    private: list[Any] = list(model.private_heads)
    joined = PrivateClassifiers(len(private), model.fusion.feature_dim, shared.out_features)
    with torch.no_grad():
        joined.weight.copy_((torch.stack([head.weight for head in private]) + shared.weight) / 2)
        joined.bias.copy_((torch.stack([head.bias for head in private]) + shared.bias) / 2)
    return joined

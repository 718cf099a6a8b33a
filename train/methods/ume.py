"""Unimodal ensemble: each encoder with its own head, the logits averaged.

    L = sum_m CE(h_m(f_m), y),   z = mean over the present m of h_m(f_m) / T_m

Source: "UME" in Du et al., "On Uni-Modal Feature Learning in Supervised Multi-Modal Learning",
ICML 2023, arXiv 2305.01233: modalities trained apart, predictions averaged. Simplified: the
encoders train side by side in one run, which is the same, as no loss couples them. With
`fusion: certainty` our weighting takes the place of the average; a comparison has both.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor

from dimml.nn.heads import PrivateClassifiers
from dimml.nn.model import MultimodalModel
from train.calibration import UNIFORM, Rule
from train.methods.base import Method, Step, Training, slot_cross_entropy
from train.methods.base import Options as BaseOptions
from train.readout import FusionReadout, Readout


class Options(BaseOptions):
    """How the modalities' answers are joined.

    Attributes:
        fusion: the rule, see `train.calibration`.
    """

    fusion: Rule = "average"


class UnimodalEnsemble(Method):
    """See the module."""

    Options = Options
    exports = True

    def __init__(self, options: Options, model: MultimodalModel) -> None:
        super().__init__(options, model)
        slots, classes = len(model.modalities), model.fusion.classifier.out_features
        model.fusion.classifier = PrivateClassifiers(slots, model.feature_dim, classes)
        if options.fusion == "average":
            model.fusion.fusion_temperature.fill_(UNIFORM)

    def losses(
        self, model: MultimodalModel, features: Tensor, present: Tensor, labels: Tensor, step: Step
    ) -> dict[str, Tensor]:
        logits = model.fusion.classifier(features)
        return {"isolated": slot_cross_entropy(logits, present, labels)}

    def answer(
        self, model: MultimodalModel, features: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        probabilities, weights, _ = model.fusion(features, present)
        return probabilities.clamp_min(1e-30).log(), weights

    def readout(self, model: MultimodalModel) -> Readout:
        return FusionReadout(model.fusion, self.options.fusion)

    def references(self, model: MultimodalModel, training: Training) -> Mapping[str, Readout]:
        return {"ume+fusion": FusionReadout(copy.deepcopy(model.fusion))}

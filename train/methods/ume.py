"""Unimodal ensemble: each encoder with its own head, the logits averaged.

    L = sum_m CE(h_m(f_m), y),   z = mean over the present m of h_m(f_m) / T_m

Source: "UME" in Du et al., "On Uni-Modal Feature Learning in Supervised Multi-Modal Learning",
ICML 2023, arXiv 2305.01233: modalities trained apart, predictions averaged. Simplified: the
encoders train side by side in one run, with the same result, because no loss couples them. With
`fusion: certainty` our weighting replaces the average; a comparison shows both.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor

from dimml.nn.heads import PrivateClassifiers
from dimml.nn.losses import modality_cross_entropy
from dimml.nn.model import MultimodalModel
from train.calibration import UNIFORM, EncodedRows, Rule
from train.methods.base import FeatureSource, Method
from train.methods.settings import MethodOptions
from train.readout import FusionReadout, Readout


class EnsembleOptions(MethodOptions):
    """The rule that joins the modalities.

    Attributes:
        fusion: The rule, see `train.calibration`.
    """

    fusion: Rule = "average"


class UnimodalEnsemble(Method):
    """Unimodal ensemble, see the module."""

    Options = EnsembleOptions
    options: EnsembleOptions
    exports = True

    def build_heads(self, model: MultimodalModel) -> None:
        slots, classes = len(model.modalities), model.fusion.classifier.out_features
        model.fusion.classifier = PrivateClassifiers(slots, model.feature_dim, classes)
        if self.options.fusion == "average":
            model.fusion.fusion_temperature.fill_(UNIFORM)

    def losses(self, model: MultimodalModel, rows: EncodedRows, epoch: int) -> dict[str, Tensor]:
        logits = self.by_modality(model.fusion.classifier(rows.features))
        present = self.by_modality(rows.present)
        return {
            "isolated": modality_cross_entropy(logits, rows.labels, present, self.class_weights)
        }

    def readout(self, model: MultimodalModel) -> Readout:
        return FusionReadout(model.fusion, self.options.fusion)

    def references(self, model: MultimodalModel, training: FeatureSource) -> Mapping[str, Readout]:
        return {"ume+fusion": FusionReadout(copy.deepcopy(model.fusion))}

"""Joint training with modality dropout (ModDrop: Neverova et al., TPAMI 2016, arXiv 1501.00102).

    z = W [d_1 f_1; ...; d_M f_M] + b,   d_m ~ Bernoulli(1 - p),   L = CE(z, y)

Each training sample loses each of its modalities with probability p, never all of them: where all
would go, one of those present, at random, stays. Simplified: no pre-training of the encoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import pydantic
from torch import Tensor

from dimml.nn.fusion import blank_absent
from dimml.nn.model import MultimodalModel
from train.methods.base import Step, Training, Trial, drop_modalities
from train.methods.joint import Joint
from train.methods.joint import Options as JointOptions
from train.readout import Readout


class Options(JointOptions):
    """How often a modality is dropped.

    Attributes:
        rate: p.
    """

    rate: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.3


class JointDropout(Joint):
    """See the module."""

    Options = Options
    TRIALS = (Trial(), Trial({"rate": 0.5}), Trial(learning_rate=2.0))

    def losses(
        self, model: MultimodalModel, features: Tensor, present: Tensor, labels: Tensor, step: Step
    ) -> dict[str, Tensor]:
        kept = drop_modalities(present, self.options.rate)
        return super().losses(model, blank_absent(features, kept), kept, labels, step)

    def references(self, model: MultimodalModel, training: Training) -> Mapping[str, Readout]:
        return {}

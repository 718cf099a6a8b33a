"""Joint training with modality dropout (ModDrop: Neverova et al., TPAMI 2016, arXiv 1501.00102).

    z = W [d_1 f_1; ...; d_M f_M] + b,   d_m ~ Bernoulli(1 - p),   L = CE(z, y)

Each training sample loses each of its modalities with probability p. If a sample would lose all of
them, a random one stays. Simplified: the encoders are not pre-trained, and the head is linear.
`head: mlp` gives it a hidden layer, see `train.methods.joint`.
"""

from __future__ import annotations

from typing import Annotated

import pydantic
from torch import Tensor

from dimml.nn.masks import blank_absent
from dimml.nn.model import MultimodalModel
from train.calibration import EncodedRows
from train.methods.base import Trial, drop_modalities
from train.methods.joint import Joint, JointOptions


class JointDropoutOptions(JointOptions):
    """The strength of the dropout.

    Attributes:
        rate: p.
    """

    rate: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.3


class JointDropout(Joint):
    """Joint training with modality dropout, see the module."""

    Options = JointDropoutOptions
    options: JointDropoutOptions
    has_mean_reference = False
    TRIALS = (Trial(), Trial({"head": "mlp"}), Trial(learning_rate=2.0))

    def losses(self, model: MultimodalModel, rows: EncodedRows, epoch: int) -> dict[str, Tensor]:
        kept = drop_modalities(rows.present, self.options.rate)
        remaining = EncodedRows(blank_absent(rows.features, kept), kept, rows.labels)
        return super().losses(model, remaining, epoch)

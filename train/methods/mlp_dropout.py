"""Joint training with modality dropout and a head with one hidden layer.

    z = W dropout(GELU(V [d_1 f_1; ...; d_M f_M] + a)) + b,   d_m ~ Bernoulli(1 - p),   L = CE(z, y)

Source: ModDrop (Neverova et al., TPAMI 2016, arXiv 1501.00102), as in `joint_dropout`. Unlike the
linear head there, this head can express a label that only a combination of modalities tells.
Differences from the paper: the encoders are not pre-trained, the hidden layer starts at random, and
its units are GELU (Hendrycks and Gimpel, arXiv 1606.08415) with dropout. With `head: linear` the
method is `joint_dropout`.
"""

from __future__ import annotations

from typing import Literal

from train.methods.base import Trial
from train.methods.joint_dropout import JointDropout, JointDropoutOptions


class MlpDropoutOptions(JointDropoutOptions):
    """The options of joint training with modality dropout, with another head by default.

    Attributes:
        head: `mlp` with one hidden layer, or `linear`.
    """

    head: Literal["linear", "mlp"] = "mlp"


class MlpDropout(JointDropout):
    """Joint training with modality dropout and a hidden layer, see the module."""

    Options = MlpDropoutOptions
    options: MlpDropoutOptions
    TRIALS = (Trial(), Trial({"rate": 0.5}), Trial(learning_rate=2.0))

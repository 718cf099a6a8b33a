"""Training methods. A method is a file in this folder and a line in `METHODS`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dimml.nn.model import MultimodalModel
    from train.methods.base import Method
    from train.training_config import TrainingConfig

METHODS: dict[str, str] = {
    "dimml": "train.methods.dimml:Detached",
    "joint": "train.methods.joint:Joint",
    "joint_dropout": "train.methods.joint_dropout:JointDropout",
    "mlp_dropout": "train.methods.mlp_dropout:MlpDropout",
    "attention": "train.methods.attention:AttentionFusion",
    "ogm_ge": "train.methods.ogm_ge:GradientModulation",
    "ume": "train.methods.ume:UnimodalEnsemble",
    "mla": "train.methods.mla:AlternatingAdaptation",
    "qmf": "train.methods.qmf:QualityAwareFusion",
    "simmlm": "train.methods.simmlm:ModalityExperts",
}
"""Module and class of each method that a recipe may name. A class is imported when it is used."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dimml-no-shared": ("dimml", {"shared": False}),
    "dimml-no-duc": ("dimml", {"duc": False}),
    "dimml-late": ("dimml", {"interaction": "none"}),
    "dimml-stage2": ("dimml", {"interaction": "paper"}),
}
"""Further runs of a comparison: the method and the options of each."""


def method_class(name: str) -> type[Method]:
    """Return the class of a method in `METHODS`."""
    module, attribute = METHODS[name].split(":")
    cls: type[Method] = getattr(importlib.import_module(module), attribute)
    return cls


def build_method(
    name: str, options: Mapping[str, Any], training: TrainingConfig, model: MultimodalModel
) -> Method:
    """Build a method for a model.

    The method may replace heads of the model, so build it before weights are loaded.
    """
    cls = method_class(name)
    return cls(cls.Options.model_validate(dict(options)), training, model)


def method_of(run: str) -> tuple[str, dict[str, Any]]:
    """Return the method of a run, and the options that make a variant of it."""
    return VARIANTS.get(run, (run, {}))

"""Training methods: one file each, and a line in `METHODS`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dimml.nn.model import MultimodalModel
    from train.methods.base import Method
    from train.methods.dimml import DetachedTraining

METHODS: dict[str, str] = {
    "dimml": "train.methods.dimml:Detached",
    "joint": "train.methods.joint:Joint",
    "joint_dropout": "train.methods.joint_dropout:JointDropout",
    "ogm_ge": "train.methods.ogm_ge:GradientModulation",
    "ume": "train.methods.ume:UnimodalEnsemble",
    "mla": "train.methods.mla:AlternatingAdaptation",
    "qmf": "train.methods.qmf:QualityAwareFusion",
}
"""Name, as in a recipe's `method`, to module and class; each is imported only when it is used."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dimml-no-shared": ("dimml", {"shared": False}),
    "dimml-no-duc": ("dimml", {"duc": False}),
    "dimml-stage2": ("dimml", {"fusion_head": True}),
}
"""Name of a run beside those of `METHODS`, to method and options."""


def method_class(name: str) -> type[Method]:
    """The class of a method in `METHODS`."""
    module, attribute = METHODS[name].split(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found


def build_method(
    name: str, options: Mapping[str, Any], training: DetachedTraining, model: MultimodalModel
) -> Method:
    """A method for a model, which it may give other heads: build it before the weights load."""
    cls = method_class(name)
    return cls(cls.Options.model_validate(dict(options)), training, model)


def method_of(run: str) -> tuple[str, dict[str, Any]]:
    """The method of a run, and the options that make a variant of it."""
    return VARIANTS.get(run, (run, {}))

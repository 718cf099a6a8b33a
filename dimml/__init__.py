"""Multimodal classifiers that keep working when a modality is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dimml.errors import DimmlError, InputError
from dimml.samples import ModalityOutput, Prediction, Sample
from dimml.startup import set_library_variables

if TYPE_CHECKING:
    from dimml.predictor import Predictor

# Every process of dimml imports this package before onnxruntime, BentoML, Ray or the hub's client.
set_library_variables()

__version__ = "0.1.0"
__all__ = ["DimmlError", "InputError", "ModalityOutput", "Prediction", "Predictor", "Sample"]


def __getattr__(name: str) -> Any:
    # `dimml --help` imports this package and must not wait for onnxruntime.
    if name == "Predictor":
        from dimml.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

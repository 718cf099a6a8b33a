"""Modality kinds, which decode, preprocess and collate audio, images, text and optical flow."""

from __future__ import annotations

from dimml.modalities.audio import Audio
from dimml.modalities.base import Arrays, Kind, KindConfig, Limits
from dimml.modalities.flow import Flow
from dimml.modalities.image import Image
from dimml.modalities.text import Text

KINDS: dict[str, type[Kind]] = {"audio": Audio, "image": Image, "text": Text, "flow": Flow}

__all__ = ["KINDS", "Arrays", "Audio", "Flow", "Image", "Kind", "KindConfig", "Limits", "Text"]

"""Modality kinds, which decode, preprocess and collate audio, images and text."""

from __future__ import annotations

from dimml.modalities.audio import Audio
from dimml.modalities.base import Arrays, Kind, KindConfig, Limits
from dimml.modalities.image import Image
from dimml.modalities.text import Text

KINDS: dict[str, type[Kind]] = {"audio": Audio, "image": Image, "text": Text}

__all__ = ["KINDS", "Arrays", "Audio", "Image", "Kind", "KindConfig", "Limits", "Text"]

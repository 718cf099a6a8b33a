"""The families of pretrained models: how each is loaded, fed and pooled.

The table is keyed by the kind of the modality and by `model_type` of a model's `config.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Pooling = Literal["pooler", "cls", "mean"]
Sizes = Literal["fixed", "patches", "any"]


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        pooling: From the hidden states to one vector: the model's own `pooler_output`, the first
            token after the final normalisation (`cls`), or the mean over tokens, positions or the
            frames of the recording (`mean`).
        loader: Class of `transformers` that loads the encoder. A model of two towers has a class
            for each.
        front_end: What stands in front of an audio model, see `dimml.nn.pretrained.front_ends`;
            `pixels` for images and `tokens` for text.
        attention: Implementation of the attention, chosen so that the model can be exported.
        sizes: The image sizes that the model takes: only that of its config (`fixed`), multiples
            of its patches (`patches`) or `any`.
    """

    pooling: Pooling
    loader: str = "AutoModel"
    front_end: str = ""
    attention: Literal["sdpa", "eager"] = "eager"
    sizes: Sizes = "any"


_CLIP_IMAGE = Family("pooler", "CLIPVisionModel", "pixels", sizes="fixed")
_SIGLIP_IMAGE = Family("pooler", "SiglipVisionModel", "pixels", sizes="fixed")
_VIT = Family("cls", front_end="pixels", sizes="fixed")
_DINO = Family("cls", front_end="pixels", sizes="patches")
_CONVOLUTIONS = Family("pooler", front_end="pixels")
_SWIN = Family("pooler", front_end="pixels", attention="eager")
_SPEECH = Family("mean", front_end="waveform")
_TOKENS = Family("mean", front_end="tokens")
_CLIP_TEXT = Family("pooler", "CLIPTextModel", "tokens")
_SIGLIP_TEXT = Family("pooler", "SiglipTextModel", "tokens")

FAMILIES: dict[str, dict[str, Family]] = {
    "image": {
        "clip": _CLIP_IMAGE,
        "clip_vision_model": _CLIP_IMAGE,
        "siglip": _SIGLIP_IMAGE,
        "siglip_vision_model": _SIGLIP_IMAGE,
        "dinov2": _DINO,
        "dinov2_with_registers": _DINO,
        "dinov3_vit": _DINO,
        "dinov3_convnext": _CONVOLUTIONS,
        # The pooler of ViT and DeiT has no weights in checkpoints for classification.
        "vit": _VIT,
        "deit": _VIT,
        "beit": Family("pooler", front_end="pixels", sizes="fixed"),
        "convnext": _CONVOLUTIONS,
        "convnextv2": _CONVOLUTIONS,
        "resnet": _CONVOLUTIONS,
        "swin": _SWIN,
        "swinv2": _SWIN,
        "efficientnet": _CONVOLUTIONS,
        "mobilenet_v2": _CONVOLUTIONS,
        "mobilevit": _CONVOLUTIONS,
    },
    "audio": {
        "whisper": Family("mean", "WhisperModel", "whisper"),
        "wav2vec2": _SPEECH,
        "hubert": _SPEECH,
        "wavlm": _SPEECH,
        "data2vec-audio": _SPEECH,
        "audio-spectrogram-transformer": Family("pooler", front_end="kaldi"),
        "clap": Family("pooler", "ClapAudioModel", "clap", attention="eager"),
        "clap_audio_model": Family("pooler", "ClapAudioModel", "clap", attention="eager"),
    },
    "text": {
        "bert": _TOKENS,
        "roberta": _TOKENS,
        "xlm-roberta": _TOKENS,
        "mpnet": _TOKENS,
        "distilbert": _TOKENS,
        "modernbert": _TOKENS,
        "deberta-v2": _TOKENS,
        "clip": _CLIP_TEXT,
        "clip_text_model": _CLIP_TEXT,
        "siglip": _SIGLIP_TEXT,
        "siglip_text_model": _SIGLIP_TEXT,
    },
}
"""Kind to `model_type` to family."""

UNKNOWN: dict[str, Family] = {
    "image": Family("mean", front_end="pixels", attention="eager", sizes="fixed"),
    "audio": Family("mean", front_end="waveform", attention="eager"),
    "text": Family("mean", front_end="tokens", attention="eager"),
}
"""What is assumed of a model whose type is not in the table."""

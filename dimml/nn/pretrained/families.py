"""The families of pretrained models: how each is loaded, fed and pooled.

The table is keyed by the kind of the modality and by `model_type` of a model's `config.json`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
        part: Attribute of the loaded model that is the encoder; empty for the model itself.
        part_class: Class of the part, from the module of `loader`.
        front_end: What stands in front of an audio model, see `dimml.nn.pretrained.front_ends`;
            `pixels` for images and `tokens` for text.
        attention: Implementation of the attention, chosen so that the model can be exported.
        poolings: The poolings that a recipe may choose instead.
        sizes: The image sizes that the model takes: only that of its config (`fixed`), multiples
            of its patches (`patches`) or `any`.
    """

    pooling: Pooling
    loader: str = "AutoModel"
    part: str = ""
    part_class: str = ""
    front_end: str = ""
    attention: Literal["sdpa", "eager"] = "eager"
    poolings: tuple[Pooling, ...] = ()
    sizes: Sizes = "any"


_PIXELS = Family("pooler", front_end="pixels", poolings=("mean",))
_VIT = Family("cls", front_end="pixels", attention="sdpa", poolings=("mean",), sizes="fixed")
_CLIP_IMAGE = replace(_VIT, pooling="pooler", loader="CLIPVisionModel")
_SIGLIP_IMAGE = replace(_VIT, pooling="pooler", loader="SiglipVisionModel")
_DINO = replace(_VIT, sizes="patches")
_SPEECH = Family("mean", front_end="waveform", attention="sdpa")
_CLAP = Family(
    "pooler",
    loader="ClapAudioModelWithProjection",
    part="audio_model",
    part_class="ClapAudioModel",
    front_end="clap",
)
_TOKENS = Family("mean", front_end="tokens", attention="sdpa", poolings=("cls",))
_CLIP_TEXT = replace(_TOKENS, pooling="pooler", loader="CLIPTextModel", poolings=("mean",))
_SIGLIP_TEXT = replace(_CLIP_TEXT, loader="SiglipTextModel")

FAMILIES: dict[str, dict[str, Family]] = {
    "image": {
        "clip": _CLIP_IMAGE,
        "clip_vision_model": _CLIP_IMAGE,
        "siglip": _SIGLIP_IMAGE,
        "siglip_vision_model": _SIGLIP_IMAGE,
        "dinov2": _DINO,
        "dinov2_with_registers": _DINO,
        "dinov3_vit": _DINO,
        "dinov3_convnext": _PIXELS,
        # The pooler of ViT and DeiT has no weights in checkpoints for classification.
        "vit": _VIT,
        "deit": _VIT,
        "beit": replace(_VIT, pooling="pooler"),
        "convnext": _PIXELS,
        "convnextv2": _PIXELS,
        "resnet": _PIXELS,
        # The attention of Swin cannot be exported otherwise.
        "swin": _PIXELS,
        "swinv2": _PIXELS,
        "efficientnet": _PIXELS,
        "mobilenet_v2": _PIXELS,
        "mobilevit": _PIXELS,
    },
    "audio": {
        "whisper": Family(
            "mean",
            loader="WhisperModel",
            part="encoder",
            part_class="WhisperEncoder",
            front_end="whisper",
            attention="sdpa",
        ),
        "wav2vec2": _SPEECH,
        "hubert": _SPEECH,
        "wavlm": replace(_SPEECH, attention="eager"),
        "data2vec-audio": _SPEECH,
        "audio-spectrogram-transformer": Family("pooler", front_end="kaldi", attention="sdpa"),
        "clap": _CLAP,
        "clap_audio_model": _CLAP,
    },
    "text": {
        "bert": _TOKENS,
        "roberta": _TOKENS,
        "xlm-roberta": _TOKENS,
        "mpnet": replace(_TOKENS, attention="eager"),
        "distilbert": _TOKENS,
        "modernbert": _TOKENS,
        "deberta-v2": replace(_TOKENS, attention="eager"),
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
    "text": Family("mean", front_end="tokens", attention="eager", poolings=("cls",)),
}
"""What is assumed of a model whose type is not in the table."""

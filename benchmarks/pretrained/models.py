"""Pretrained models at their true sizes, with random weights: as fast as the originals.

A folder is laid out as on the hub, so that `train.pretrained.read_model` reads it. Nothing is
downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer, models, pre_tokenizers, processors

_MINILM = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_RESIZE = {"size": {"height": 224, "width": 224}}
_CROP = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}
_SPEECH = ("Wav2Vec2FeatureExtractor", {"do_normalize": True})
VOCABULARY = 8_000
"""Words of the tokenizer. The true vocabularies are larger, which changes the size of a model but
not its speed; `embedding_rows` gives the true number."""


@dataclass(frozen=True)
class ModelCase:
    """One model of the hub.

    Attributes:
        like: The hub id whose architecture this is.
        kind: Kind of the modality.
        build: Returns the model.
        processor: Class and settings of the processor or feature extractor.
        embedding_rows: Rows of the true embedding table of a text model.
    """

    like: str
    kind: str
    build: Callable[[], Any]
    processor: tuple[str, dict[str, Any]] = ("", {})
    embedding_rows: int = VOCABULARY
    files: dict[str, Any] = field(default_factory=dict)


def _image(like: str, build: Callable[[], Any], **processor: Any) -> ModelCase:
    settings = {**_IMAGENET, **_RESIZE, **processor}
    return ModelCase(like, "image", build, ("ViTImageProcessor", settings))


def _whisper(like: str, width: int, layers: int) -> ModelCase:
    config = t.WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        decoder_layers=1,
        decoder_attention_heads=width // 64,
        decoder_ffn_dim=64,
        vocab_size=64,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
        decoder_start_token_id=0,
    )
    extractor = ("WhisperFeatureExtractor", {"feature_size": 80})
    return ModelCase(like, "audio", lambda: t.WhisperModel(config), extractor)


def _text(like: str, rows: int, build: Callable[[], Any]) -> ModelCase:
    return ModelCase(like, "text", build, embedding_rows=rows)


CASES: dict[str, ModelCase] = {
    "clip-vit-b32": _image(
        "openai/clip-vit-base-patch32", lambda: t.CLIPVisionModel(t.CLIPVisionConfig())
    ),
    "siglip-b16": _image(
        "google/siglip2-base-patch16-224", lambda: t.SiglipVisionModel(t.SiglipVisionConfig())
    ),
    "dinov2-small": _image(
        "facebook/dinov2-small",
        lambda: t.Dinov2Model(
            t.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)
        ),
    ),
    "vit-b16": _image("google/vit-base-patch16-224", lambda: t.ViTModel(t.ViTConfig())),
    "convnext-tiny": _image(
        "facebook/convnext-tiny-224", lambda: t.ConvNextModel(t.ConvNextConfig())
    ),
    "resnet-50": _image("microsoft/resnet-50", lambda: t.ResNetModel(t.ResNetConfig())),
    "swin-tiny": _image(
        "microsoft/swin-tiny-patch4-window7-224", lambda: t.SwinModel(t.SwinConfig())
    ),
    "efficientnet-b0": _image(
        "google/efficientnet-b0",
        lambda: t.EfficientNetModel(
            t.EfficientNetConfig(
                width_coefficient=1.0, depth_coefficient=1.0, image_size=224, hidden_dim=1280
            )
        ),
    ),
    "mobilenet-v2": _image(
        "google/mobilenet_v2_1.0_224", lambda: t.MobileNetV2Model(t.MobileNetV2Config())
    ),
    "mobilevit-small": _image(
        "apple/mobilevit-small",
        lambda: t.MobileViTModel(t.MobileViTConfig()),
        size={"height": 256, "width": 256},
    ),
    "whisper-tiny": _whisper("openai/whisper-tiny", 384, 4),
    "whisper-base": _whisper("openai/whisper-base", 512, 6),
    "whisper-small": _whisper("openai/whisper-small", 768, 12),
    "wav2vec2-base": ModelCase(
        "facebook/wav2vec2-base", "audio", lambda: t.Wav2Vec2Model(t.Wav2Vec2Config()), _SPEECH
    ),
    "wavlm-base": ModelCase(
        "microsoft/wavlm-base-plus", "audio", lambda: t.WavLMModel(t.WavLMConfig()), _SPEECH
    ),
    "ast": ModelCase(
        "MIT/ast-finetuned-audioset-10-10-0.4593",
        "audio",
        lambda: t.ASTModel(t.ASTConfig()),
        ("ASTFeatureExtractor", {}),
    ),
    "clap": ModelCase(
        "laion/clap-htsat-unfused",
        "audio",
        lambda: t.ClapAudioModelWithProjection(t.ClapAudioConfig()),
        ("ClapFeatureExtractor", {"truncation": "rand_trunc"}),
    ),
    "minilm-l6": _text(
        "sentence-transformers/all-MiniLM-L6-v2",
        30_522,
        lambda: t.BertModel(t.BertConfig(**_MINILM, num_hidden_layers=6), add_pooling_layer=False),
    ),
    "bge-small": _text(
        "BAAI/bge-small-en-v1.5",
        30_522,
        lambda: t.BertModel(t.BertConfig(**_MINILM, num_hidden_layers=12), add_pooling_layer=False),
    ),
    "mpnet-base": _text(
        "sentence-transformers/all-mpnet-base-v2",
        30_527,
        lambda: t.MPNetModel(t.MPNetConfig(max_position_embeddings=514)),
    ),
    "e5-base": _text(
        "intfloat/multilingual-e5-base",
        250_002,
        lambda: t.XLMRobertaModel(
            t.XLMRobertaConfig(max_position_embeddings=514, type_vocab_size=1),
            add_pooling_layer=False,
        ),
    ),
    "modernbert-base": _text(
        "answerdotai/ModernBERT-base",
        50_368,
        lambda: t.ModernBertModel(t.ModernBertConfig(pad_token_id=0)),
    ),
    "clip-text-b32": _text(
        "openai/clip-vit-base-patch32", 49_408, lambda: t.CLIPTextModel(t.CLIPTextConfig())
    ),
}
"""Short name to model."""


def write_model(name: str, folder: Path) -> Path:
    """Write a model of `CASES` into a folder, and return the folder."""
    case = CASES[name]
    torch.manual_seed(0)
    t.utils.logging.disable_progress_bar()
    case.build().save_pretrained(folder)
    if case.kind == "text":
        write_tokenizer(folder)
        return folder
    kind = "image_processor_type" if case.kind == "image" else "feature_extractor_type"
    class_name, settings = case.processor
    document = {kind: class_name, **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(document))
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of made-up words, `w0` to `w7999`, one token each."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [f"w{number}" for number in range(VOCABULARY - len(special))]
    vocabulary = {token: number for number, token in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    t.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)

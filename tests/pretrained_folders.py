"""Pretrained models in miniature: folders as on the hub, with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as t

VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LAYERS = {**VISION, "intermediate_size": 48}
SPEECH = {
    **LAYERS,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 8),
    "conv_stride": (5, 16),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
STAGES = {"hidden_sizes": [16, 40], "depths": [1, 1]}
SWIN = {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
WORDS = ["zero", "one", "two", "three", "query", "red", "blue", "was", "it", ":", "##s"]

IMAGE_MODELS: dict[str, Callable[[], Any]] = {
    "clip": lambda: t.CLIPModel(
        t.CLIPConfig(
            vision_config={**LAYERS, "image_size": 32, "patch_size": 8},
            text_config={
                **LAYERS,
                "vocab_size": 40,
                "max_position_embeddings": 16,
                "eos_token_id": 3,
            },
            projection_dim=16,
        )
    ),
    "siglip": lambda: t.SiglipModel(
        t.SiglipConfig(
            vision_config={**LAYERS, "image_size": 32, "patch_size": 8},
            text_config={**LAYERS, "vocab_size": 40, "max_position_embeddings": 16},
        )
    ),
    "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**VISION, image_size=56, patch_size=14)),
    "dinov3_vit": lambda: t.DINOv3ViTModel(
        t.DINOv3ViTConfig(**LAYERS, image_size=32, patch_size=8, num_register_tokens=2)
    ),
    "dinov3_convnext": lambda: t.DINOv3ConvNextModel(t.DINOv3ConvNextConfig(**STAGES)),
    "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**LAYERS, image_size=32, patch_size=8)),
    "deit": lambda: t.DeiTForImageClassification(
        t.DeiTConfig(**LAYERS, image_size=32, patch_size=8)
    ),
    "beit": lambda: t.BeitForImageClassification(
        t.BeitConfig(**LAYERS, image_size=32, patch_size=8)
    ),
    "convnext": lambda: t.ConvNextModel(t.ConvNextConfig(**STAGES, num_stages=2)),
    "convnextv2": lambda: t.ConvNextV2Model(t.ConvNextV2Config(**STAGES, num_stages=2)),
    "resnet": lambda: t.ResNetModel(t.ResNetConfig(embedding_size=16, **STAGES)),
    "swin": lambda: t.SwinModel(t.SwinConfig(**SWIN)),
    "swinv2": lambda: t.Swinv2Model(t.Swinv2Config(**SWIN)),
    "efficientnet": lambda: t.EfficientNetModel(
        t.EfficientNetConfig(
            image_size=64,
            width_coefficient=1.0,
            depth_coefficient=1.0,
            in_channels=[32, 16],
            out_channels=[16, 24],
            kernel_sizes=[3, 3],
            strides=[1, 2],
            num_block_repeats=[1, 1],
            expand_ratios=[1, 2],
            hidden_dim=1280,
        )
    ),
    "mobilenet_v2": lambda: t.MobileNetV2Model(
        t.MobileNetV2Config(depth_multiplier=0.25, image_size=64, finegrained_output=False)
    ),
    "mobilevit": lambda: t.MobileViTModel(
        t.MobileViTConfig(
            image_size=64,
            hidden_sizes=[16, 16, 16],
            neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 32],
            num_attention_heads=2,
        )
    ),
}
AUDIO_MODELS: dict[str, Callable[[], Any]] = {
    "whisper": lambda: t.WhisperModel(
        t.WhisperConfig(
            d_model=32,
            encoder_layers=1,
            encoder_attention_heads=2,
            encoder_ffn_dim=48,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=48,
            vocab_size=50,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    ),
    "wav2vec2": lambda: t.Wav2Vec2Model(t.Wav2Vec2Config(**SPEECH)),
    "hubert": lambda: t.HubertModel(t.HubertConfig(**SPEECH)),
    "wavlm": lambda: t.WavLMModel(t.WavLMConfig(**SPEECH)),
    "data2vec-audio": lambda: t.Data2VecAudioModel(
        t.Data2VecAudioConfig(**{**SPEECH, "num_conv_pos_embeddings": 5})
    ),
    "audio-spectrogram-transformer": lambda: t.ASTModel(t.ASTConfig(**LAYERS, max_length=128)),
    "clap": lambda: t.ClapModel(
        t.ClapConfig(
            text_config={**LAYERS, "vocab_size": 40},
            audio_config={
                "patch_embeds_hidden_size": 16,
                "depths": [1, 1],
                "num_attention_heads": [2, 2],
                "hidden_size": 32,
                "enable_fusion": False,
            },
        )
    ),
}
TEXT_MODELS: dict[str, Callable[[], Any]] = {
    "bert": lambda: t.BertModel(t.BertConfig(**LAYERS, vocab_size=40, max_position_embeddings=32)),
    "roberta": lambda: t.RobertaModel(
        t.RobertaConfig(**LAYERS, vocab_size=40, max_position_embeddings=34, pad_token_id=1)
    ),
    "xlm-roberta": lambda: t.XLMRobertaModel(
        t.XLMRobertaConfig(**LAYERS, vocab_size=40, max_position_embeddings=34, pad_token_id=1)
    ),
    "mpnet": lambda: t.MPNetModel(
        t.MPNetConfig(**LAYERS, vocab_size=40, max_position_embeddings=34)
    ),
    "distilbert": lambda: t.DistilBertModel(
        t.DistilBertConfig(
            dim=32, n_layers=1, n_heads=2, hidden_dim=48, vocab_size=40, max_position_embeddings=32
        )
    ),
    "modernbert": lambda: t.ModernBertModel(
        t.ModernBertConfig(**LAYERS, vocab_size=40, max_position_embeddings=64, pad_token_id=0)
    ),
    "deberta-v2": lambda: t.DebertaV2Model(
        t.DebertaV2Config(
            **LAYERS,
            vocab_size=40,
            max_position_embeddings=32,
            relative_attention=True,
            position_buckets=16,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
        )
    ),
    "clip": IMAGE_MODELS["clip"],
    "siglip": IMAGE_MODELS["siglip"],
}
MODELS = {"image": IMAGE_MODELS, "audio": AUDIO_MODELS, "text": TEXT_MODELS}

_STATISTICS = {"image_mean": [0.48, 0.45, 0.4], "image_std": [0.26, 0.27, 0.28]}
IMAGE_PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": (
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 32}, "crop_size": 32, "resample": 3},
    ),
    "siglip": ("SiglipImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 3}),
    "dinov2": (
        "BitImageProcessor",
        {"size": {"shortest_edge": 48}, "crop_size": {"height": 42, "width": 42}, "resample": 3},
    ),
    "dinov3_vit": ("DINOv3ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 2}),
    "dinov3_convnext": (
        "DINOv3ViTImageProcessor",
        {"size": {"height": 64, "width": 64}, "resample": 2},
    ),
    "vit": ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 2}),
    "deit": (
        "DeiTImageProcessor",
        {
            "size": {"height": 36, "width": 36},
            "crop_size": {"height": 32, "width": 32},
            "resample": 3,
        },
    ),
    "beit": (
        "BeitImageProcessor",
        {"size": {"height": 32, "width": 32}, "resample": 2, "do_center_crop": False},
    ),
    "convnext": (
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 64}, "crop_pct": 0.875, "resample": 3},
    ),
    "convnextv2": (
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 3},
    ),
    "resnet": (
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 64}, "crop_pct": 0.95, "resample": 3},
    ),
    "swin": ("ViTImageProcessor", {"size": {"height": 64, "width": 64}, "resample": 3}),
    "swinv2": ("ViTImageProcessor", {"size": {"height": 64, "width": 64}, "resample": 3}),
    "efficientnet": (
        "EfficientNetImageProcessor",
        {
            "size": {"height": 64, "width": 64},
            "do_center_crop": False,
            "resample": 0,
            "rescale_offset": True,
            "rescale_factor": 1 / 127.5,
            "include_top": True,
        },
    ),
    "mobilenet_v2": (
        "MobileNetV2ImageProcessor",
        {"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}, "resample": 2},
    ),
    "mobilevit": (
        "MobileViTImageProcessor",
        {
            "size": {"shortest_edge": 72},
            "crop_size": {"height": 64, "width": 64},
            "resample": 2,
            "do_flip_channel_order": True,
            "do_normalize": False,
        },
    ),
}
AUDIO_PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "whisper": ("WhisperFeatureExtractor", {"feature_size": 80}),
    "audio-spectrogram-transformer": (
        "ASTFeatureExtractor",
        {"max_length": 128, "num_mel_bins": 128, "mean": -4.27, "std": 4.57},
    ),
    "clap": ("ClapFeatureExtractor", {"truncation": "rand_trunc", "padding": "repeatpad"}),
    **dict.fromkeys(
        ("wav2vec2", "hubert", "wavlm", "data2vec-audio"),
        ("Wav2Vec2FeatureExtractor", {"do_normalize": True, "sampling_rate": 16_000}),
    ),
}


def write_folder(folder: Path, kind: str, model_type: str) -> Path:
    """Write a model with random weights, its processor and its tokenizer."""
    torch.manual_seed(0)
    model = MODELS[kind][model_type]().eval()
    _randomize(model)
    model.save_pretrained(folder, safe_serialization=True)
    if kind == "image":
        name, settings = IMAGE_PROCESSORS[model_type]
        processor = {"image_processor_type": name, **_STATISTICS, **settings}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    if kind == "audio":
        name, settings = AUDIO_PROCESSORS[model_type]
        processor = {"feature_extractor_type": name, **settings}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    if kind == "text":
        write_tokenizer(folder, pad_to_max=model_type == "siglip")
    return folder


def write_tokenizer(folder: Path, pad_to_max: bool = False) -> None:
    """Write a fast tokenizer of a few words, whose length limit is 16 tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {token: number for number, token in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = t.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=16,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    fast.save_pretrained(folder)


def _randomize(model: torch.nn.Module) -> None:
    """Give a model weights with which every layer matters to the output.

    At first, normalisations change nothing, and convolutions make their input vanish.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.LayerNorm | torch.nn.BatchNorm2d):
            for parameter, mean in ((module.weight, 1.0), (module.bias, 0.0)):
                if parameter is not None:
                    torch.nn.init.normal_(parameter, mean, 0.2)

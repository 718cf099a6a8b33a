"""The encoders that `python -m benchmarks.gpu` measures, as PyTorch modules and as graphs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import soundfile
import torch
from torch import Tensor, nn
from transformers import BertConfig

from dimml.bundle import ModalitySpec, build_kind
from dimml.modalities import Arrays, Kind
from dimml.nn.encoders import PooledBert, PowerEncoder, TextEncoder, build_encoder
from dimml.nn.model import MultimodalModel
from export.half import halve_graph
from export.onnx import export_encoder, write_bundle
from train.data.splits import train_tokenizer

FEATURES, CLASSES = 256, 10
RATE, SECONDS = 16_000, 10.03  # 1004 frames of 257 frequencies
TEXT = "the quick brown fox jumps over a lazy dog and the dog sleeps on"


@dataclass(frozen=True)
class EncoderCase:
    """One encoder with one input.

    Attributes:
        name: Name of the encoder and its input size.
        kind: Kind of its modality.
        module: PyTorch module in eval mode and float32.
        raw: Sample as a client sends it.
    """

    name: str
    kind: Kind
    module: nn.Module
    raw: Any

    def batch(self, size: int) -> Arrays:
        """Return the inputs of the encoder for a batch of equal samples."""
        item = self.kind.preprocess(self.kind.decode(self.raw))
        return self.kind.collate([item] * size)

    def export(self, folder: Path, precision: str) -> Path:
        """Return the path of the graph in fp32 or fp16, which is exported if necessary."""
        path = folder / f"{self.kind.name}.{precision}.onnx"
        if not path.exists():
            whole = folder / f"{self.kind.name}.fp32.onnx"
            if not whole.exists():
                export_encoder(self.module, self.kind, whole)
            if precision == "fp16":
                halve_graph(whole, path)
        return path


def encoder_cases() -> dict[str, EncoderCase]:
    """Return a ResNet-18 on 257 x 1004, one on 224 x 224, and a MiniLM on 128 tokens."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    specs, assets = specifications()
    kinds = {name: build_kind(name, spec, assets[name], None) for name, spec in specs.items()}
    sound, picture = io.BytesIO(), io.BytesIO()
    noise = 0.1 * random.standard_normal(int(RATE * SECONDS))
    soundfile.write(sound, noise, RATE, format="WAV")
    pixels = random.integers(0, 256, (48, 64, 3), np.uint8)
    PIL.Image.fromarray(pixels).resize((640, 480)).save(picture, "JPEG")
    text = " ".join([TEXT] * 30)
    audio = build_encoder(kinds["audio"], FEATURES, preset="resnet18", n_mels=None)
    image = build_encoder(kinds["image"], FEATURES, preset="resnet18")
    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
    )
    words = TextEncoder(PooledBert(config), nn.Linear(config.hidden_size, FEATURES))
    return {
        "audio": EncoderCase(
            "ResNet-18, 257 x 1004", kinds["audio"], audio.eval(), sound.getvalue()
        ),
        "image": EncoderCase("ResNet-18, 224 px", kinds["image"], image.eval(), picture.getvalue()),
        "text": EncoderCase("MiniLM, 128 tokens", kinds["text"], words.eval(), text),
    }


def specifications() -> tuple[dict[str, ModalitySpec], dict[str, dict[str, bytes]]]:
    """Return the specifications and the assets of the three modalities."""

    def spec(kind: str, inputs: tuple[str, ...], **preprocessing: Any) -> ModalitySpec:
        files = {"tokenizer.json": "text.tokenizer.json"} if kind == "text" else {}
        return ModalitySpec(
            kind=kind,
            graph=f"{kind}.onnx",
            inputs=inputs,
            preprocessing=preprocessing,
            encoder="resnet18",
            assets=files,
        )

    specs = {
        "audio": spec("audio", ("power",), sample_rate=RATE, seconds=SECONDS, hop_length=160),
        "image": spec("image", ("pixels",), size=[224, 224]),
        "text": spec("text", ("input_ids", "attention_mask"), max_length=128),
    }
    return specs, {
        "audio": {},
        "image": {},
        "text": {"tokenizer.json": train_tokenizer([TEXT] * 10, 100)},
    }


def write_whole(path: Path, cases: dict[str, EncoderCase]) -> MultimodalModel:
    """Write a bundle of the encoders with an untrained classifier, and return the model."""
    specs, assets = specifications()
    encoders = [case.module for case in cases.values()]
    model = MultimodalModel(list(cases), encoders, FEATURES, CLASSES).eval()
    write_bundle(
        path,
        model,
        {name: case.kind for name, case in cases.items()},
        specs,
        assets,
        name="gpu",
        labels=tuple(f"class {n}" for n in range(CLASSES)),
        created="2026-01-01T00:00:00Z",
        provenance={},
    )
    return model


class HalfEncoder(nn.Module):
    """An encoder in float16 with float32 inputs and features, like the exported graphs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.half()
        if isinstance(module, PowerEncoder):
            module.backbone.log_mel.float()

    def forward(self, **inputs: Tensor) -> Tensor:
        module = self.module
        if isinstance(module, PowerEncoder):
            spectrogram = module.backbone
            picture = spectrogram.log_mel(inputs["power"]).unsqueeze(1).half()
            features: Tensor = module.head(spectrogram.resnet(picture))
            return features.float()
        halved = {k: v.half() if v.is_floating_point() else v for k, v in inputs.items()}
        return module(**halved).float()  # type: ignore[no-any-return]

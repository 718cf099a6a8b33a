"""The encoders that `python -m benchmarks.gpu` measures, as PyTorch modules and as graphs.

They have the sizes of well-known models and random weights, which take the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from export.half import halve_graph

Arrays = dict[str, np.ndarray]


class Encoder(nn.Module):
    """A model of `transformers` with the mean of its outputs as its features, in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        dtype = next(self.model.parameters()).dtype
        cast = [value.to(dtype) if value.is_floating_point() else value for value in inputs]
        output: Tensor = self.model(*cast).last_hidden_state
        spatial = tuple(range(2, output.ndim)) if output.ndim == 4 else (1,)
        return output.mean(dim=spatial).float()


@dataclass(frozen=True)
class EncoderCase:
    """One encoder.

    Attributes:
        name: Name and input size.
        module: PyTorch module in eval mode and float32.
        shapes: Graph input name to the shape of one sample.
        vocabulary: Number of token ids; 0 if the inputs are float32.
    """

    name: str
    module: Encoder
    shapes: dict[str, tuple[int, ...]]
    vocabulary: int = 0

    def batch(self, rows: int) -> Arrays:
        """Return random inputs, the same at every call."""
        random = np.random.default_rng(0)
        if self.vocabulary:
            ids = random.integers(0, self.vocabulary, (rows, *self.shapes["input_ids"]))
            return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return {
            name: random.standard_normal((rows, *shape), dtype=np.float32)
            for name, shape in self.shapes.items()
        }

    def export(self, folder: Path, precision: str) -> Path:
        """Return the path of the graph in fp32 or fp16, which is exported if necessary."""
        path = folder / f"{self.name.partition(',')[0]}.{precision}.onnx"
        if not path.exists() and precision == "fp16":
            halve_graph(self.export(folder, "fp32"), path)
        elif not path.exists():
            batch = torch.export.Dim("batch", min=1)
            torch.onnx.export(
                self.module,
                tuple(torch.from_numpy(array) for array in self.batch(2).values()),
                str(path),
                dynamo=True,
                dynamic_shapes=(tuple({0: batch} for _ in self.shapes),),
                input_names=list(self.shapes),
                output_names=["features"],
                external_data=False,
                verbose=False,
            )
        return path


def encoder_cases(tiny: bool) -> list[EncoderCase]:
    """Return a ResNet-18, a MiniLM and a Whisper base, or tiny models of the same kinds."""
    torch.manual_seed(0)
    side, tokens, frames = (32, 16, 20) if tiny else (224, 128, 3000)
    width, layers = (32, 1) if tiny else (384, 6)
    image = transformers.ResNetConfig(
        embedding_size=16 if tiny else 64,
        hidden_sizes=[16, 32] if tiny else [64, 128, 256, 512],
        depths=[1, 1] if tiny else [2, 2, 2, 2],
        layer_type="basic",
    )
    text = transformers.BertConfig(
        vocab_size=1_000,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
    )
    speech = transformers.WhisperConfig(
        d_model=64 if tiny else 512,
        encoder_layers=layers,
        encoder_attention_heads=1 if tiny else 8,
        encoder_ffn_dim=64 if tiny else 2048,
        max_source_positions=frames // 2,
    )
    bert = transformers.BertModel(text, add_pooling_layer=False)
    return [
        EncoderCase(
            f"ResNet-18, {side} px",
            Encoder(transformers.ResNetModel(image)).eval(),
            {"pixels": (3, side, side)},
        ),
        EncoderCase(
            f"MiniLM, {tokens} tokens",
            Encoder(bert).eval(),
            dict.fromkeys(("input_ids", "attention_mask"), (tokens,)),
            text.vocab_size,
        ),
        EncoderCase(
            f"Whisper base, {frames} frames",
            Encoder(WhisperEncoder(speech)).eval(),
            {"mel": (80, frames)},
        ),
    ]

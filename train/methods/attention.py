"""Attention over one token per modality, with a learned token in place of an absent modality.

Source: Ramazanova, Pardo, Alwassel, Ghanem, "Exploring Missing Modality in Multimodal Egocentric
Datasets", 2024, arXiv 2401.11470. A transformer gets a learned Missing Modality Token u wherever a
modality is absent. Training also replaces modalities that are present, at random:

    t_m = (P_m f_m where m is kept, else u) + e_m,   m is kept with probability 1 - p
    z   = W LN(Transformer([c; t_1; ...; t_M])_c) + b,   L = CE(z, y)

c is a learned class token, e_m a learned embedding of modality m, and P_m a linear projection. The
answer keeps every present modality.

Differences from the paper: it fuses the patch tokens of audio and video in a Multimodal Bottleneck
Transformer, and replaces all tokens of a missing modality. Here each modality is one token, the
feature of its encoder, and one pre-norm layer without bottleneck tokens fuses any number of
modalities. One u serves all modalities, and e_m tells which of them is absent. Every sample keeps
at least one modality. p, the size of the layer and its dropout are not the paper's.
"""

from __future__ import annotations

from typing import Annotated

import pydantic
import torch
from torch import Tensor, nn

from dimml.nn.losses import masked_cross_entropy
from dimml.nn.model import MultimodalModel
from train.calibration import EncodedRows
from train.methods.base import Method, Trial, drop_modalities
from train.methods.settings import MethodOptions

ATTENTION_HEADS = 4
ATTENTION_DROPOUT = 0.1
INITIAL_DEVIATION = 0.02
"""Standard deviation of the learned tokens at the start, as in BERT."""


class AttentionOptions(MethodOptions):
    """The strength of the modality dropout, and the size of the tokens.

    Attributes:
        rate: p.
        width: Size of a token, a multiple of the 4 attention heads.
    """

    rate: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.3
    width: Annotated[int, pydantic.Field(ge=ATTENTION_HEADS, multiple_of=ATTENTION_HEADS)] = 128


class AttentionFusion(Method):
    """Attention over modality tokens, see the module.

    Attributes:
        projections: P_m of every modality.
        missing: u, [width].
        embeddings: e_m, [M, width].
        class_token: c, [1, 1, width].
        transformer: One pre-norm encoder layer, and LN.
        head: W and b.
    """

    Options = AttentionOptions
    options: AttentionOptions
    TRIALS = (Trial(), Trial({"rate": 0.5}), Trial(learning_rate=0.5))

    def build_heads(self, model: MultimodalModel) -> None:
        slots, width = len(model.modalities), self.options.width
        self.projections = nn.ModuleList(nn.Linear(model.feature_dim, width) for _ in range(slots))
        self.missing = nn.Parameter(INITIAL_DEVIATION * torch.randn(width))
        self.embeddings = nn.Parameter(INITIAL_DEVIATION * torch.randn(slots, width))
        self.class_token = nn.Parameter(INITIAL_DEVIATION * torch.randn(1, 1, width))
        layer = nn.TransformerEncoderLayer(
            width,
            ATTENTION_HEADS,
            dim_feedforward=2 * width,
            dropout=ATTENTION_DROPOUT,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        # Nested tensors are for padded sequences, and these have none.
        self.transformer = nn.TransformerEncoder(
            layer, 1, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, model.fusion.classifier.out_features)

    def losses(self, model: MultimodalModel, rows: EncodedRows, epoch: int) -> dict[str, Tensor]:
        kept = drop_modalities(rows.present, self.options.rate)
        logits, _ = self.answer(model, rows.features, kept)
        labelled = rows.present.any(dim=1)
        return {"joint": masked_cross_entropy(logits, rows.labels, labelled, self.class_weights)}

    def answer(
        self, model: MultimodalModel, features: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        pairs = zip(self.projections, features.unbind(dim=1), strict=True)
        projected = torch.stack([projection(values) for projection, values in pairs], dim=1)
        tokens = torch.where(present.unsqueeze(-1), projected, self.missing) + self.embeddings
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        logits: Tensor = self.head(self.transformer(tokens)[:, 0])
        return logits, None

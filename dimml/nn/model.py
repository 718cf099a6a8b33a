"""The detached model: one encoder and private head per modality, one shared classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dimml.nn.fusion import CertaintyFusion


class EncoderInputs(NamedTuple):
    """Samples whose inputs have one shape, so that an encoder takes them together.

    Attributes:
        rows: int64 [n], which samples of the batch.
        inputs: graph input to [n, ...].
    """

    rows: Tensor
    inputs: Mapping[str, Tensor]


class MultimodalModel(nn.Module):
    """Encoders that share nothing but the classifier of their features.

    Source: DI-MML, arXiv 2407.19514, section 3. No encoder sees another's input, and each
    receives gradient from its own losses alone.

    Attributes:
        modalities: names, in slot order.
        encoders: one per modality, in that order.
        private_heads: h_m, linear from D to K, likewise.
        fusion: the shared classifier g with the calibrated fusion: what is served.
        effective: bool [M, D], the effective dimensions of each modality; all False until
            the warm-up ends.
    """

    effective: Tensor

    def __init__(
        self,
        modalities: Sequence[str],
        encoders: Sequence[nn.Module],
        feature_dim: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.encoders = nn.ModuleList(encoders)
        self.private_heads = nn.ModuleList(nn.Linear(feature_dim, num_classes) for _ in modalities)
        self.fusion = CertaintyFusion(feature_dim, num_classes, len(modalities))
        self.register_buffer(
            "effective", torch.zeros(len(modalities), feature_dim, dtype=torch.bool)
        )

    @property
    def feature_dim(self) -> int:
        """D."""
        return int(self.effective.shape[1])

    def forward(self, inputs: Mapping[str, Sequence[EncoderInputs]], present: Tensor) -> Tensor:
        """Features of what is present.

        Args:
            inputs: modality to its present rows, in groups that cover each of them once.
            present: bool [N samples, M modalities].

        Returns:
            [N samples, M modalities, D dimensions], 0 where absent.
        """
        columns = []
        for name, encoder in zip(self.modalities, self.encoders, strict=True):
            column = torch.zeros(len(present), self.feature_dim, device=present.device)
            for rows, arrays in inputs.get(name, ()):
                features = encoder(**arrays)
                column = column.to(features.dtype).index_copy(0, rows, features)
            columns.append(column)
        return torch.stack(columns, dim=1)

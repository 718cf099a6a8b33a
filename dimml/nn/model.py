"""The multimodal model: an encoder and a private head per modality, and their fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dimml.nn.fusion import CertaintyFusion


class EncoderInputs(NamedTuple):
    """Samples whose inputs have equal shapes, so that one call of an encoder takes them.

    Attributes:
        rows: int64 [n], the samples' rows in the batch.
        inputs: Graph input to [n, ...].
    """

    rows: Tensor
    inputs: Mapping[str, Tensor]


class MultimodalModel(nn.Module):
    """Encoders that share nothing but the classifier of their features.

    No encoder sees the input of another. Which losses couple the encoders is up to the training
    method; the detached method (DI-MML, arXiv 2407.19514, section 3) couples them by one only.

    Attributes:
        modalities: Names in slot order.
        encoders: One encoder per modality, in slot order.
        private_heads: h_m, linear from D to K, one per modality in slot order.
        fusion: The classifier with the calibrated fusion, which is what a bundle serves.
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
        """The size D of a feature vector."""
        return int(self.effective.shape[1])

    def forward(self, inputs: Mapping[str, Sequence[EncoderInputs]], present: Tensor) -> Tensor:
        """Return the features of the present modalities.

        Args:
            inputs: Modality to the inputs of its present rows, each row once.
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

"""The multimodal model: one encoder and one private head per modality, and the fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dimml.nn.fusion import CertaintyFusion
from dimml.nn.interaction import (
    Branches,
    HeadName,
    Interaction,
    InteractionHead,
    add_branch,
    remove_branch,
)


class EncoderInputs(NamedTuple):
    """The inputs of one encoder call: samples of a batch whose arrays have equal shapes.

    Attributes:
        rows: Rows of these samples in the batch, int64 [n].
        inputs: Graph input name to values, [n, ...].
    """

    rows: Tensor
    inputs: Mapping[str, Tensor]


class MultimodalModel(nn.Module):
    """Separate encoders, their private heads, and the fusion of their features.

    Every training method trains this model. No encoder sees the input of another modality; the
    losses of a method decide whether the modalities learn together. A bundle leaves the private
    heads out.

    Attributes:
        modalities: Names of the modalities, in slot order.
        encoders: One encoder per modality, in slot order.
        private_heads: h_m, one linear layer from D to K per modality, in slot order.
        fusion: Classifier and calibrated fusion, which a bundle serves.
        effective: Effective dimensions of each modality, bool [M, D]; all False until a method
            computes them.
        branches: The two heads of each encoder, if an interaction head has features of its own.
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
        self.branches: list[Branches] = []

    @property
    def feature_dim(self) -> int:
        """The size of a feature vector: D, and D more if interaction heads have their own."""
        return self.fusion.feature_dim * (2 if self.branches else 1)

    def add_interaction(self, names: Sequence[HeadName]) -> None:
        """Add interaction heads, which read D features of their own from each encoder.

        Args:
            names: The heads. `paper` reads the other features, so it needs to be the only one.
        """
        modalities, dim = len(self.modalities), self.fusion.feature_dim
        if "paper" not in names:
            self.branches = [add_branch(encoder, dim) for encoder in self.encoders]
        classes = self.fusion.classifier.out_features
        heads = [InteractionHead(name, modalities, dim, classes) for name in names]
        self.fusion.interaction = Interaction(heads, modalities, dim)

    def keep_head(self, name: str | None) -> None:
        """Remove all interaction heads but one, or all of them and their features for None."""
        if self.fusion.interaction is None:
            return
        if name is not None:
            self.fusion.interaction.keep(name)
            return
        self.fusion.interaction = None
        self.branches = []
        for encoder in self.encoders:
            remove_branch(encoder)

    def forward(self, inputs: Mapping[str, Sequence[EncoderInputs]], present: Tensor) -> Tensor:
        """Return the features of the present modalities.

        Args:
            inputs: Modality to encoder inputs, which together hold each present row once.
            present: bool [N samples, M modalities].

        Returns:
            [N samples, M modalities, `feature_dim`], 0 where absent.
        """
        columns = []
        for name, encoder in zip(self.modalities, self.encoders, strict=True):
            column = torch.zeros(len(present), self.feature_dim, device=present.device)
            for rows, arrays in inputs.get(name, ()):
                features = encoder(**arrays)
                column = column.to(features.dtype).index_copy(0, rows, features)
            columns.append(column)
        return torch.stack(columns, dim=1)

"""The interaction head: what modalities tell together and none of them tells alone.

A weighted sum of what each modality says cannot express that two modalities match. This head sees
the features of all present modalities at once. It has feature dimensions of its own, beside those
of the shared classifier, so that its training cannot change what a modality says alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dimml.nn.encoders import Encoder
from dimml.nn.masks import blank_absent, subset_index
from dimml.nn.pretrained.adapter import Adapter

HeadName = Literal["linear", "mlp", "paper"]
HIDDEN_UNITS = 256
DROPOUT = 0.2


class Branches(nn.Module):
    """Two heads of an encoder on the same pooled features [N, width], side by side.

    Attributes:
        late: Gives the D features that a modality's own answer is made of.
        interaction: Gives the features of the interaction head.
        detached: Whether the gradient of the interaction head stops here and does not reach the
            backbone.
    """

    def __init__(self, late: nn.Module, interaction: nn.Module) -> None:
        super().__init__()
        self.late = late
        self.interaction = interaction
        self.detached = True

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the features of both heads, [N, D + E]."""
        source = pooled.detach() if self.detached else pooled
        return torch.cat([self.late(pooled), self.interaction(source)], dim=-1)


def add_branch(encoder: nn.Module, feature_dim: int) -> Branches:
    """Give an encoder E more features, which the interaction head reads.

    Args:
        encoder: An `Encoder`, or the `Adapter` of a frozen encoder in training.
        feature_dim: E.

    Returns:
        The two heads, which are now a part of the encoder.
    """
    head: Any = encoder.head if isinstance(encoder, Encoder) else encoder
    if isinstance(head, Adapter):
        head.layers = Branches(head.layers, nn.Linear(len(head.mean), feature_dim))
        return head.layers
    encoder.head = Branches(head, nn.Linear(head.in_features, feature_dim))
    return encoder.head


def remove_branch(encoder: nn.Module) -> None:
    """Undo `add_branch`; do nothing if the encoder has one head."""
    head: Any = encoder.head if isinstance(encoder, Encoder) else encoder
    if isinstance(head, Branches):
        encoder.head = head.late
    elif isinstance(getattr(head, "layers", None), Branches):
        head.layers = head.layers.late


class InteractionHead(nn.Module):
    """A classifier on the features of all modalities and the mask of those present.

    Args:
        name: `linear`; `mlp` for one hidden layer, which also sees `pair_products`; or `paper`, the
            linear head of stage 2 of DI-MML (arXiv 2407.19514), which has no features of its own
            and needs every modality.
        modalities: M.
        width: Feature dimensions of one modality, E.
        classes: K.
    """

    def __init__(self, name: HeadName, modalities: int, width: int, classes: int) -> None:
        super().__init__()
        self.name = name
        inputs = modalities * (width + 1)
        self.layers: nn.Module = nn.Linear(inputs, classes)
        if name == "mlp":
            self.layers = nn.Sequential(
                nn.Linear(inputs + width, HIDDEN_UNITS),
                nn.GELU(),
                nn.Dropout(DROPOUT),
                nn.Linear(HIDDEN_UNITS, classes),
            )

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """Map features [N, M, E], of which absent slots may hold anything, to logits [N, K]."""
        clean = blank_absent(features, present)
        mask = present.unsqueeze(-1).to(clean.dtype)
        inputs = torch.cat([clean, mask], dim=-1).flatten(1)
        if self.name == "mlp":
            inputs = torch.cat([inputs, pair_products(clean)], dim=1)
        logits: Tensor = self.layers(inputs)
        return logits


def pair_products(features: Tensor) -> Tensor:
    """Return the sum over pairs of modalities of the products of their features, dimension-wise.

    Whether two modalities match is a product of their features. A hidden layer learns products
    slowly, and encoders trained from scratch get no gradient until it has. The sum over all pairs
    is ((sum_m u_m)^2 - sum_m u_m^2) / 2 (factorization machines, Rendle 2010, ICDM, 995-1000).

    Args:
        features: [N, M, E], 0 where absent.

    Returns:
        [N, E].
    """
    return (features.sum(dim=1).square() - features.square().sum(dim=1)) / 2


class Interaction(nn.Module):
    """The interaction heads, and the share of each in the answer of each subset of modalities.

    Shares and temperatures are buffers, which calibration fits on the validation split. Before
    `set_shares`, all shares are 0.

    Attributes:
        heads: H heads by name.
        share: [H, 2 ** M subsets], numbered by `subset_index`: a. It is 0 for a subset of one
            modality, whose answer is that of the modality.
        head_temperature: [H, 2 ** M]; divides the logits of each head.
        mixture_temperature: [2 ** M]; divides the mixture of the logarithms. It is 1 where no head
            has a share.
    """

    share: Tensor
    head_temperature: Tensor
    mixture_temperature: Tensor

    def __init__(self, heads: Sequence[InteractionHead], modalities: int, late_dim: int) -> None:
        """Build an interaction that takes no part yet.

        Args:
            heads: The heads, each with another name.
            modalities: M.
            late_dim: The number of first feature dimensions that do not belong to the heads. The
                head `paper` reads those.
        """
        super().__init__()
        self.heads = nn.ModuleDict({head.name: head for head in heads})
        self.late_dim = late_dim
        self.register_buffer("share", torch.zeros(len(heads), 2**modalities))
        self.register_buffer("head_temperature", torch.ones(len(heads), 2**modalities))
        self.register_buffer("mixture_temperature", torch.ones(2**modalities))

    def keep(self, name: str) -> None:
        """Remove all heads but one."""
        number = list(self.heads).index(name)
        self.heads = nn.ModuleDict({name: self.heads[name]})
        self.share = self.share[number : number + 1]
        self.head_temperature = self.head_temperature[number : number + 1]

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """Map features [N, M, D + E] to the logits of each head [N, H, K]."""
        late, own = features[..., : self.late_dim], features[..., self.late_dim :]
        heads: Any = self.heads.items()
        logits = [head(late if name == "paper" else own, present) for name, head in heads]
        return torch.stack(logits, dim=1)

    def mix(
        self, late: Tensor, joint: Tensor, weights: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mix the late answer p with the answers q_h = softmax(z_h / T_h) of the heads.

            softmax(((1 - sum_h a_h) log p + sum_h a_h log q_h) / T),   for the row's subset

        This is log-linear pooling (Genest and Zidek 1986, Statistical Science 1, 114-135). The
        share of the heads counts equally for all present modalities.

        Args:
            late: Logits of the late answer, calibrated, [N, K].
            joint: Logits of the heads, [N, H, K].
            weights: Shares of the modalities in the late answer, [N, M].
            present: bool [N, M].

        Returns:
            Probabilities [N, K], and the shares [N, M] of the modalities in them.
        """
        index = subset_index(present)
        share = self.share[:, index].T.unsqueeze(-1)
        joint = joint / self.head_temperature[:, index].T.unsqueeze(-1)
        mixed = (share * joint.log_softmax(dim=-1)).sum(dim=1)
        total = share.sum(dim=1)
        mixed = mixed + (1 - total) * late.log_softmax(dim=-1)
        mixed = mixed / self.mixture_temperature[index].unsqueeze(-1)
        equal = present / present.sum(dim=1, keepdim=True)
        return mixed.softmax(dim=-1), (1 - total) * weights + total * equal

    def set_shares(
        self, share: Tensor, head_temperature: Tensor, mixture_temperature: Tensor
    ) -> None:
        """Set the buffers; on an error, set none of them.

        Raises:
            ValueError: If a shape is wrong, a temperature is not positive and finite, the shares of
                a subset are negative or sum to more than 1, a one-modality subset has a share, or
                the mixture of a subset without shares has a temperature other than 1.
        """
        values = {
            "share": share,
            "head_temperature": head_temperature,
            "mixture_temperature": mixture_temperature,
        }
        for name, value in values.items():
            shape = self.get_buffer(name).shape
            if value.shape != shape:
                raise ValueError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")
            if name != "share" and not bool((value.isfinite() & (value > 0)).all()):
                raise ValueError(f"{name} must be positive and finite, got {value.tolist()}")
        modalities = (len(self.mixture_temperature) - 1).bit_length()
        totals, alone = share.sum(dim=0), share[:, [2**m for m in range(modalities)]]
        if not bool((share >= 0).all() and (totals <= 1 + 1e-6).all() and (alone == 0).all()):
            raise ValueError(
                "the shares of a subset must lie in 0 .. 1 and sum to at most 1, and one-modality "
                f"subsets must have none, got {share.tolist()}"
            )
        if not bool((mixture_temperature[totals == 0] == 1).all()):
            raise ValueError("mixture_temperature must be 1 for subsets without a share")
        for name, value in values.items():
            self.get_buffer(name).copy_(value)

"""What every training method has: losses, an answer for any subset, and its hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional

from dimml.nn.fusion import blank_absent
from dimml.nn.model import MultimodalModel
from train.readout import Readout

UNLABELLED = -1
"""The class of a row that has no label."""


class MethodOptions(pydantic.BaseModel):
    """Base of a method's own settings, a recipe's `options`: strict, unknown keys are errors."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Trial(NamedTuple):
    """One point of a method's grid of hyper-parameters.

    Attributes:
        options: of the method; what is left out has its default.
        learning_rate: what the recipe's is multiplied by.
    """

    options: Mapping[str, Any] = {}
    learning_rate: float = 1.0


FeatureSource: TypeAlias = Callable[[], tuple[Tensor, Tensor, Tensor]]
"""Features [N, M, D], present [N, M] and labels [N] of the training split, computed when called."""


class Method(nn.Module):
    """A way to train a model's encoders and heads, and to answer with them.

    The encoders, the data, the optimizer and its schedule are the same for all. A method has the
    parameters of its own heads, and is handed the model, so that no parameter belongs to both.

    Attributes:
        Options: the settings that a recipe may give.
        TRIALS: the grid for `dimml compare --trials`, the published settings first; equally many
            for every method.
        alternates: the method takes its optimizer's steps itself, in `alternate`.
        uses_dimensions: training needs the effective dimensions.
        finishes: `finish` has something to do.
        exports: what is served is all in the model's encoders and `fusion`.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    TRIALS: ClassVar[tuple[Trial, ...]] = (Trial(), Trial(learning_rate=0.5), Trial({}, 2.0))
    alternates = False
    uses_dimensions = False
    finishes = False
    exports = False

    def __init__(self, options: Any, training: Any, model: MultimodalModel) -> None:
        super().__init__()
        self.options = options
        self.training_config = training
        self.modalities = model.modalities
        self.build_heads(model)

    def build_heads(self, model: MultimodalModel) -> None:
        """Create the method's own heads, or replace those of the model."""

    def uses_unlabelled(self, epochs: int) -> bool:
        """Return whether a training of so many epochs learns from rows without a label."""
        return False

    def needs_dimensions(self, epoch: int) -> bool:
        """Return whether the effective dimensions are computed before this epoch."""
        return False

    def by_modality(self, values: Tensor) -> dict[str, Tensor]:
        """Return the slots of values [N, M, ...] by the name of their modality."""
        return dict(zip(self.modalities, values.unbind(dim=1), strict=True))

    def objective(
        self, model: MultimodalModel, features: Tensor, present: Tensor, labels: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        """The weighted terms whose sum is the loss; absent slots may hold anything.

        Args:
            model: what is trained.
            features: [N samples, M modalities, D].
            present: bool [N, M].
            labels: int64 [N]; `UNLABELLED` where a row has none.
            epoch: number of finished epochs.
        """
        return self.losses(model, blank_absent(features, present), present, labels, epoch)

    def losses(
        self, model: MultimodalModel, features: Tensor, present: Tensor, labels: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        """As `objective`, of features that are 0 where absent."""
        raise NotImplementedError

    def alternate(
        self,
        model: MultimodalModel,
        features: Tensor,
        present: Tensor,
        labels: Tensor,
        optimizer: torch.optim.Optimizer,
    ) -> dict[str, Tensor]:
        """Where `alternates`: all steps of a batch but the last, whose gradients it leaves."""
        raise NotImplementedError

    def adjust_gradients(self, model: MultimodalModel) -> None:
        """Called between the backward pass and the optimizer's step."""

    def finish(
        self, model: MultimodalModel, features: Tensor, present: Tensor, labels: Tensor
    ) -> None:
        """Where `finishes`: called once after training, with the training split's features."""

    def answer(
        self, model: MultimodalModel, features: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """What the method says before calibration.

        Args:
            model: trained or in training.
            features: [N, M, D], 0 where absent.
            present: bool [N, M], at least one per row.

        Returns:
            Logits [N, K], and each modality's share in them [N, M] where the method has shares.
            By default those of the model's fusion.
        """
        probabilities, weights, _ = model.fusion(features, present)
        return probabilities.clamp_min(1e-30).log(), weights

    def readout(self, model: MultimodalModel) -> Readout:
        """The method's answer, to be calibrated."""
        return Readout(lambda features, present: self.answer(model, features, present))

    def references(self, model: MultimodalModel, training: FeatureSource) -> Mapping[str, Readout]:
        """Further rows for a comparison, out of the same training, by name.

        Args:
            model: trained.
            training: the features, present and labels of the training split.
        """
        return {}


def drop_modalities(
    present: Tensor, rate: float, generator: torch.Generator | None = None
) -> Tensor:
    """Which of the present modalities stay, bool [N, M]; of each row with any, at least one."""
    kept = present & (torch.rand(present.shape, generator=generator).to(present.device) >= rate)
    scores = torch.rand(present.shape, generator=generator).to(present.device)
    last = scores.masked_fill(~present, -1.0).argmax(dim=1)
    one = functional.one_hot(last, present.shape[1]).bool() & present
    return torch.where(kept.any(dim=1, keepdim=True), kept, one)

"""What every training method has: losses, an answer for any subset, and its hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional

from dimml.nn.fusion import blank_absent
from dimml.nn.losses import masked_cross_entropy
from dimml.nn.model import MultimodalModel
from train.readout import Readout
from train.recipe import TrainingConfig


class Options(pydantic.BaseModel):
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


Training: TypeAlias = Callable[[], tuple[Tensor, Tensor, Tensor]]
"""Features [N, M, D], present [N, M] and labels [N] of the training split, computed when called."""


class Step(NamedTuple):
    """Where training is."""

    config: TrainingConfig
    epoch: int


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
        uses_unlabelled: rows without a label take part in training; other methods do not see them.
        finishes: `finish` has something to do.
        exports: what is served is all in the model's encoders and `fusion`.
    """

    Options: ClassVar[type[Options]] = Options
    TRIALS: ClassVar[tuple[Trial, ...]] = (Trial(), Trial(learning_rate=0.5), Trial({}, 2.0))
    alternates = False
    uses_dimensions = False
    uses_unlabelled = False
    finishes = False
    exports = False

    def __init__(self, options: Any, model: MultimodalModel) -> None:
        super().__init__()
        self.options = options
        self.modalities = model.modalities

    def objective(
        self, model: MultimodalModel, features: Tensor, present: Tensor, labels: Tensor, step: Step
    ) -> dict[str, Tensor]:
        """The weighted terms whose sum is the loss; absent slots may hold anything.

        Args:
            model: what is trained.
            features: [N samples, M modalities, D].
            present: bool [N, M].
            labels: int64 [N]; with `uses_unlabelled`, -1 where there is none.
            step: where training is.
        """
        return self.losses(model, blank_absent(features, present), present, labels, step)

    def losses(
        self, model: MultimodalModel, features: Tensor, present: Tensor, labels: Tensor, step: Step
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
        """
        raise NotImplementedError

    def readout(self, model: MultimodalModel) -> Readout:
        """The method's answer, to be calibrated."""
        return Readout(lambda features, present: self.answer(model, features, present))

    def references(self, model: MultimodalModel, training: Training) -> Mapping[str, Readout]:
        """Further rows for a comparison, out of the same training, by name.

        Args:
            model: trained.
            training: the features, present and labels of the training split.
        """
        return {}


def slot_cross_entropy(logits: Tensor, present: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each modality over the rows that have it, summed over modalities.

    Args:
        logits: [N, M, K].
        present: bool [N, M].
        labels: int64 [N].
    """
    slots = range(logits.shape[1])
    terms = [masked_cross_entropy(logits[:, s], labels, present[:, s]) for s in slots]
    return torch.stack(terms).sum()


def drop_modalities(
    present: Tensor, rate: float, generator: torch.Generator | None = None
) -> Tensor:
    """Which of the present modalities stay, bool [N, M]; of each row with any, at least one."""
    kept = present & (torch.rand(present.shape, generator=generator).to(present.device) >= rate)
    scores = torch.rand(present.shape, generator=generator).to(present.device)
    last = scores.masked_fill(~present, -1.0).argmax(dim=1)
    one = functional.one_hot(last, present.shape[1]).bool() & present
    return torch.where(kept.any(dim=1, keepdim=True), kept, one)

"""The base class of the training methods: its losses, its answer, its grid of hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from dimml.nn.masks import blank_absent
from dimml.nn.model import MultimodalModel
from train.calibration import EncodedRows
from train.choice import FusionChoice
from train.methods.settings import MethodOptions
from train.readout import Readout
from train.subset_blocks import SubsetBlock

UNLABELLED = -1
"""The class of a row that has no label."""

FeatureSource: TypeAlias = Callable[[], EncodedRows]
"""A function that encodes the labelled rows of the training split."""


class Trial(NamedTuple):
    """One point of a method's grid of hyper-parameters.

    Attributes:
        options: Options of the method; the others keep their defaults.
        learning_rate: Factor of the recipe's learning rate.
    """

    options: Mapping[str, Any] = {}
    learning_rate: float = 1.0


class Method(nn.Module):
    """A way to train the encoders and heads of a model, and to answer with them.

    Encoders, data, optimizer and schedule are the same for all methods. A method owns the
    parameters of its own heads. It receives the model as an argument and does not keep it, so that
    no parameter belongs to both.

    Attributes:
        Options: The model of the options that a recipe may set.
        TRIALS: The grid for `dimml compare --trials`, with the published settings first. All
            methods have the same number of trials.
        alternates: Whether the method steps the optimizer itself, in `alternate`.
        uses_dimensions: Whether training needs the effective dimensions.
        finishes: Whether `finish` does something.
        exports: Whether the model's encoders and `fusion` hold everything that is served.
        class_weights: The weights [K] of the classes in every cross-entropy with labels; None for
            equal weights. They only matter in training, so no checkpoint holds them.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    TRIALS: ClassVar[tuple[Trial, ...]] = (Trial(), Trial(learning_rate=0.5), Trial({}, 2.0))
    alternates = False
    uses_dimensions = False
    finishes = False
    exports = False
    class_weights: Tensor | None

    def __init__(self, options: Any, training: Any, model: MultimodalModel) -> None:
        super().__init__()
        self.options = options
        self.training_config = training
        self.modalities = model.modalities
        self.register_buffer("class_weights", None, persistent=False)
        self.build_heads(model)

    def build_heads(self, model: MultimodalModel) -> None:
        """Create the method's own heads, or replace heads of the model."""

    def uses_unlabelled(self, epochs: int) -> bool:
        """Return whether a training of this many epochs learns from rows without a label."""
        return False

    def start_epoch(self, model: MultimodalModel) -> None:
        """Prepare the model for an epoch of training."""

    def inspect_validation(self, model: MultimodalModel, rows: EncodedRows) -> None:
        """Learn from the encoded validation split, before an epoch's `answer` is measured on it."""

    def needs_dimensions(self, epoch: int) -> bool:
        """Return whether the effective dimensions are computed before this epoch."""
        return False

    def by_modality(self, values: Tensor) -> dict[str, Tensor]:
        """Return the slots of values [N, M, ...] by the name of their modality."""
        return dict(zip(self.modalities, values.unbind(dim=1), strict=True))

    def objective(self, model: MultimodalModel, rows: EncodedRows, epoch: int) -> dict[str, Tensor]:
        """Return the weighted terms whose sum is the loss of a batch."""
        clean = blank_absent(rows.features, rows.present)
        return self.losses(model, rows._replace(features=clean), epoch)

    def losses(self, model: MultimodalModel, rows: EncodedRows, epoch: int) -> dict[str, Tensor]:
        """Return the terms of `objective`, from features that are 0 where absent."""
        raise NotImplementedError

    def alternate(
        self, model: MultimodalModel, rows: EncodedRows, optimizer: torch.optim.Optimizer
    ) -> dict[str, Tensor]:
        """Take all optimizer steps of a batch but the last, and leave the gradients of the last."""
        raise NotImplementedError

    def adjust_gradients(self, model: MultimodalModel) -> None:
        """Change the gradients between the backward pass and the optimizer's step."""

    def finish(self, model: MultimodalModel, rows: EncodedRows) -> None:
        """Fit what the method needs once after training, on the encoded training split."""

    def answer(
        self, model: MultimodalModel, features: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the answer before calibration; by default that of the model's fusion.

        Args:
            model: The model, trained or in training.
            features: [N, M, D], 0 where absent.
            present: bool [N, M], at least one per row.

        Returns:
            Logits [N, K], and the share [N, M] of each modality if the method has shares.
        """
        probabilities, weights, _ = model.fusion(features, present)
        return probabilities.clamp_min(1e-30).log(), weights

    def subset_answers(
        self, model: MultimodalModel, rows: EncodedRows
    ) -> Callable[[SubsetBlock], Tensor]:
        """Return a function from pairs of these rows and a subset to `answer`'s logits [R, K]."""

        def answer(block: SubsetBlock) -> Tensor:
            features = blank_absent(rows.features[block.rows], block.mask)
            return self.answer(model, features, block.mask)[0]

        return answer

    def readout(self, model: MultimodalModel) -> Readout:
        """Return the method's answer, ready for calibration."""
        return Readout(lambda features, present: self.answer(model, features, present))

    def served_options(self, choice: FusionChoice) -> dict[str, Any]:
        """Return the options that build the method as it is served, after the choice of a run."""
        return {}

    def references(self, model: MultimodalModel, training: FeatureSource) -> Mapping[str, Readout]:
        """Return further rows of a comparison, by name, that the same training provides."""
        return {}

    def dimension_sets(self, model: MultimodalModel) -> dict[str, dict[str, int]] | None:
        """Return the sizes of the sets of feature dimensions, for a method that has such sets."""
        return None


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return the weights [K] with which all classes count equally: n / (K * rows of the class).

    Args:
        labels: int64 [N], `UNLABELLED` for a row without a label, which is not counted.
        classes: K.
    """
    counts = torch.bincount(labels[labels != UNLABELLED], minlength=classes)
    return counts.sum() / (classes * counts)


def drop_modalities(
    present: Tensor, rate: float, generator: torch.Generator | None = None, keep: int = 1
) -> Tensor:
    """Drop each present modality with a probability, but keep some modalities of each row.

    Args:
        present: bool [N, M].
        rate: The probability.
        generator: Draws the modalities.
        keep: The number of modalities that stay at least, if the row has as many.

    Returns:
        bool [N, M], the modalities that stay.
    """
    kept = present & (torch.rand(present.shape, generator=generator).to(present.device) >= rate)
    scores = torch.rand(present.shape, generator=generator).to(present.device)
    last = scores.masked_fill(~present, -1.0).topk(min(keep, present.shape[1]), dim=1).indices
    least = torch.zeros_like(present).scatter(1, last, True) & present
    return torch.where(kept.sum(dim=1, keepdim=True) >= keep, kept, least)

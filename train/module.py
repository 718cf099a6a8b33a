"""The Lightning module: steps, schedule, effective dimensions, validation by subset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as lightning
import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor

from dimml.errors import TrainingError
from dimml.nn.dimensions import effective_dimensions
from dimml.nn.fusion import blank_absent
from dimml.nn.model import MultimodalModel
from dimml.samples import subset_name
from train.calibration import subset_rows
from train.data.loader import Batch
from train.methods.base import Method, Step
from train.recipe import Recipe

_RANKS = 7_919
"""Between the seeds of two devices' dropout."""

BEST = "val_accuracy"
"""Mean accuracy over the subsets of modalities: what the best epoch is chosen by."""


class TrainingModule(lightning.LightningModule):
    """Trains a `MultimodalModel` by a recipe.

    Args:
        model: what to train.
        recipe: how.
        method: the recipe's, built for the model.
    """

    def __init__(self, model: MultimodalModel, recipe: Recipe, method: Method) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.automatic_optimization = not method.alternates
        self.recipe = recipe
        self._outputs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._absent = torch.zeros(len(model.modalities), dtype=torch.bool)

    def configure_optimizers(self) -> Any:
        config = self.recipe.training
        optimizer = torch.optim.AdamW(
            self.parameters(),
            config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_epoch_start(self) -> None:
        if not self.method.uses_dimensions:
            return
        config = self.recipe.training
        since = self.current_epoch - config.warm_up
        every = config.recompute_every
        if since == 0 or (since > 0 and every is not None and since % every == 0):
            self._find_effective_dimensions()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        # Dropout is the only randomness left in torch; so seeded, a resumed run repeats it.
        seed = self.recipe.seed * 1_000_003 + self.global_step
        torch.manual_seed(seed + _RANKS * self.global_rank)
        features = self.model(batch.inputs, batch.present)
        # Sums over classes and samples want more digits than 16 bits have.
        with torch.autocast(self.device.type, enabled=False):
            features, present, labels = self._joined(features.float(), batch)
            if self.method.alternates:
                terms = self._alternate(features, batch)
            else:
                step = Step(self.recipe.training, self.current_epoch)
                terms = self.method.objective(self.model, features, present, labels, step)
            loss = torch.stack(list(terms.values())).sum()
        for name, value in {**terms, "loss": loss}.items():
            self.log(f"train_{name}", value, on_epoch=True, on_step=False, batch_size=len(labels))
        return loss

    def _joined(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Features, present and labels of the batch, of all devices where there are more.

        Each device computes the loss of the joined batch, whose contrast needs every sample. As
        gathering adds up the gradients that the devices return, and they take the mean of those of
        the parameters, the encoders get the joined batch's own.
        """
        if self.trainer.world_size == 1:
            return features, batch.present, batch.labels
        every = self.all_gather(features + self._idle(batch.present), sync_grads=True)
        present, labels = self.all_gather((batch.present, batch.labels))
        present = present.flatten(0, 1)
        self._absent = ~present.any(dim=0)
        return every.flatten(0, 1), present, labels.flatten(0, 1)

    def _idle(self, present: Tensor) -> Tensor:
        """Zeros [M, 1] that depend on the weights of the encoders that this device does not need.

        Otherwise it would send their gradients, which it knows to be 0, before it takes part in
        the gathering of the others', and two devices that send in another order wait for ever.
        """
        zeros = []
        for slot, encoder in enumerate(self.model.encoders):
            needed = bool(present[:, slot].any())
            weights = [] if needed else [w.sum() for w in encoder.parameters() if w.requires_grad]
            zeros.append(0 * sum(weights, torch.zeros((), device=present.device)))
        return torch.stack(zeros).unsqueeze(1)

    def _alternate(self, features: Tensor, batch: Batch) -> dict[str, Tensor]:
        optimizer: Any = self.optimizers()
        # Its own steps bypass Lightning's count, which stays one per batch.
        terms = self.method.alternate(
            self.model, features, batch.present, batch.labels, optimizer.optimizer
        )
        optimizer.step()
        schedule: Any = self.lr_schedulers()
        schedule.step()
        return terms

    def on_after_backward(self) -> None:
        for slot in self._absent.nonzero().flatten().tolist():
            # As on one device, an encoder that nobody needed takes no step.
            for weight in self.model.encoders[slot].parameters():
                weight.grad = None
        self.method.adjust_gradients(self.model)

    def validation_step(self, batch: Batch, index: int) -> None:
        features = self.model(batch.inputs, batch.present)
        self._outputs.append((features.float(), batch.present, batch.labels))

    def on_validation_epoch_end(self) -> None:
        features, present, labels = (torch.cat(part) for part in zip(*self._outputs, strict=True))
        self._outputs.clear()
        accuracies = {}
        finite = bool(features[present].isfinite().all())
        for subset, rows, mask in subset_rows(self.model.modalities, present):
            said, _ = self.method.answer(self.model, blank_absent(features[rows], mask), mask)
            right = said.argmax(dim=1) == labels[rows]
            accuracies[subset_name(subset)] = right.float().mean()
            finite = finite and bool(said.isfinite().all())
        if not finite:
            raise TrainingError(
                f"training diverged in epoch {self.current_epoch + 1}: its answers are not finite; "
                "lower training.learning_rate or training.lambda_duc"
            )
        self.log(BEST, torch.stack(list(accuracies.values())).mean(), prog_bar=True)
        self.log_dict({f"{BEST}_{name}": value for name, value in accuracies.items()})

    @torch.no_grad()
    def _find_effective_dimensions(self) -> None:
        """Over the training split, in eval mode and without augmentation (method.md)."""
        self.model.eval()
        loader = self.trainer.datamodule.plain_train_dataloader()  # type: ignore[attr-defined]
        features, present, labels = encode(self.model, loader)
        self.model.train()
        classes = self.model.fusion.classifier.out_features
        for slot in range(len(self.model.modalities)):
            rows = present[:, slot]
            if rows.any():
                self.model.effective[slot] = effective_dimensions(
                    features[rows, slot], labels[rows], classes
                )


@torch.no_grad()
def encode(model: MultimodalModel, loader: Iterable[Batch]) -> tuple[Tensor, Tensor, Tensor]:
    """Features [N, M, D], present [N, M] and labels [N] of all of a loader's samples."""
    parts = []
    for batch in loader:
        moved = move_data_to_device(batch, model.effective.device)
        parts.append((model(moved.inputs, moved.present), moved.present, moved.labels))
    features, present, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return features, present, labels

"""The Lightning module: steps, schedule, effective dimensions, validation by subset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytorch_lightning as lightning
import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor

from dimml.errors import TrainingError
from dimml.nn.dimensions import effective_dimensions
from dimml.nn.model import MultimodalModel
from dimml.nn.pretrained.backbone import Backbone
from dimml.samples import subset_name
from train.calibration import EncodedRows
from train.data.loader import Batch
from train.methods.base import Method
from train.optimizer import build_optimizer, build_schedule
from train.pretrained.tuning import parameter_groups
from train.recipe import Recipe
from train.subset_blocks import subset_blocks, subset_modalities

_RANK_SEED_STEP = 7_919
"""The distance between the dropout seeds of two devices."""

BEST = "val_accuracy"
"""The metric that selects the best epoch: the mean accuracy over the subsets of modalities."""


class TrainingModule(lightning.LightningModule):
    """Trains a `MultimodalModel` by a recipe.

    Args:
        model: The model to train.
        recipe: The recipe of the run.
        method: The recipe's method, built for the model.
    """

    def __init__(self, model: MultimodalModel, recipe: Recipe, method: Method) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.automatic_optimization = not method.alternates
        self.recipe = recipe
        self._outputs: list[EncodedRows] = []
        self._absent = torch.zeros(len(model.modalities), dtype=torch.bool)

    @property
    def gradient_clip(self) -> float | None:
        """The largest norm of the gradient; None for any."""
        tuned = any(isinstance(module, Backbone) for module in self.model.modules())
        return self.recipe.training.gradient_clip or (1.0 if tuned else None)

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self, self.recipe)
        # Lightning does not clip the gradients of a fused optimizer in mixed precision.
        fused = self.gradient_clip is None or self.recipe.training.precision == "32-true"
        optimizer = build_optimizer(self.recipe.training, groups, fused)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = build_schedule(self.recipe.training, optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_epoch_start(self) -> None:
        self.method.start_epoch(self.model)
        if self.method.needs_dimensions(self.current_epoch):
            self._update_effective_dimensions()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        # Dropout is the only randomness left in torch, so this seed makes a resumed run repeat it.
        seed = self.recipe.seed * 1_000_003 + self.global_step
        torch.manual_seed(seed + _RANK_SEED_STEP * self.global_rank)
        features = self.model(batch.inputs, batch.present)
        # Sums over classes and samples need more precision than 16 bits have.
        with torch.autocast(self.device.type, enabled=False):
            rows = self._gather(features.float(), batch)
            if self.trainer.world_size > 1:
                # All devices drop the same modalities, because each computes the whole loss.
                torch.manual_seed(seed)
            if self.method.alternates:
                terms = self._alternate(rows)
            else:
                terms = self.method.objective(self.model, rows, self.current_epoch)
            loss = torch.stack(list(terms.values())).sum()
        size = len(rows.labels)
        for name, value in {**terms, "loss": loss}.items():
            self.log(f"train_{name}", value, on_epoch=True, on_step=False, batch_size=size)
        return loss

    def _gather(self, features: Tensor, batch: Batch) -> EncodedRows:
        """Return the rows of the batch, joined over all devices.

        Each device computes the loss of the joined batch, because the DUC loss contrasts every
        sample with every other. `all_gather` sums the gradients that the devices return, and the
        devices then average the gradients of the parameters, so the encoders get the gradient of
        the joined batch.
        """
        if self.trainer.world_size == 1:
            return EncodedRows(features, batch.present, batch.labels)
        every: Any = self.all_gather(features + self._unused_zeros(batch.present), sync_grads=True)
        others: Any = self.all_gather((batch.present, batch.labels))
        rows = EncodedRows(*(part.flatten(0, 1) for part in (every, *others)))
        self._absent = ~rows.present.any(dim=0)
        return rows

    def _unused_zeros(self, present: Tensor) -> Tensor:
        """Return zeros [M, 1] that depend on the encoders that this device does not use.

        Without this dependence the device would send their gradients, which are 0, before it takes
        part in the gathering of the others. Devices that communicate in different orders deadlock.
        """
        zeros = []
        for slot, encoder in enumerate(self.model.encoders):
            used = bool(present[:, slot].any())
            weights = [] if used else [w.sum() for w in encoder.parameters() if w.requires_grad]
            zeros.append(0 * sum(weights, torch.zeros((), device=present.device)))
        return torch.stack(zeros).unsqueeze(1)

    def _alternate(self, rows: EncodedRows) -> dict[str, Tensor]:
        optimizer: Any = self.optimizers()
        # The method's own steps use the optimizer inside Lightning's wrapper, so that Lightning
        # counts one step per batch.
        terms = self.method.alternate(self.model, rows, optimizer.optimizer)
        self.clip_gradients(optimizer, self.gradient_clip, "norm")
        optimizer.step()
        schedule: Any = self.lr_schedulers()
        schedule.step()
        return terms

    def on_after_backward(self) -> None:
        for slot in self._absent.nonzero().flatten().tolist():
            # As on one device, an encoder that no row needs takes no step.
            for weight in self.model.encoders[slot].parameters():
                weight.grad = None
        self.method.adjust_gradients(self.model)

    def validation_step(self, batch: Batch, index: int) -> None:
        features = self.model(batch.inputs, batch.present)
        self._outputs.append(EncodedRows(features.float(), batch.present, batch.labels))

    def on_validation_epoch_end(self) -> None:
        features, present, labels = _concatenate(self._outputs)
        self._outputs.clear()
        rows = EncodedRows(features, present, labels)
        finite = bool(features[present].isfinite().all())
        if finite:
            self.method.inspect_validation(self.model, rows)
        accuracies, answered = subset_accuracies(self.model, self.method, rows)
        if not (finite and answered):
            raise TrainingError(
                f"training diverged in epoch {self.current_epoch + 1}: the model's answers are not "
                "finite; lower training.learning_rate or training.lambda_duc"
            )
        self.log(BEST, torch.stack(list(accuracies.values())).mean(), prog_bar=True)
        self.log_dict({f"{BEST}_{name}": value for name, value in accuracies.items()})

    @torch.no_grad()
    def _update_effective_dimensions(self) -> None:
        """Compute the effective dimensions on the training split, in eval mode, not augmented."""
        self.model.eval()
        loader = self.trainer.datamodule.plain_train_dataloader()  # type: ignore[attr-defined]
        features, present, labels = encode(self.model, loader)
        self.model.train()
        classes = self.model.fusion.classifier.out_features
        for slot in range(len(self.model.modalities)):
            rows = present[:, slot]
            if rows.any():
                self.model.effective[slot] = effective_dimensions(
                    features[rows, slot, : self.model.fusion.feature_dim], labels[rows], classes
                )


@torch.no_grad()
def subset_accuracies(
    model: MultimodalModel, method: Method, rows: EncodedRows
) -> tuple[dict[str, Tensor], bool]:
    """Return the accuracy of each subset of modalities, and whether all answers are finite."""
    answered: dict[int, list[Tensor]] = {}
    finite = True
    classes = model.fusion.classifier.out_features
    for part in rows.blocks(classes):
        answers = method.subset_answers(model, part)
        for block in subset_blocks(part.present, max(part.features[:1].numel(), classes)):
            logits = answers(block)
            right = (logits.argmax(dim=1) == part.labels[block.rows]).float()
            each = torch.split(right, block.counts.tolist())
            for number, values in zip(block.subsets.tolist(), each, strict=True):
                answered.setdefault(number, []).append(values)
            finite = finite and bool(logits.isfinite().all())
    return {
        subset_name(subset_modalities(number, model.modalities)): torch.cat(values).mean()
        for number, values in answered.items()
    }, finite


@torch.no_grad()
def encode(model: MultimodalModel, loader: Iterable[Batch]) -> EncodedRows:
    """Return the encoded rows of a loader."""
    parts = []
    for batch in loader:
        moved = move_data_to_device(batch, model.effective.device)
        features = model(moved.inputs, moved.present)
        parts.append(EncodedRows(features, moved.present, moved.labels))
    return _concatenate(parts)


def _concatenate(parts: Sequence[EncodedRows]) -> EncodedRows:
    return EncodedRows(*(torch.cat(values) for values in zip(*parts, strict=True)))

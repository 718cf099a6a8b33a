"""The Lightning module: steps, schedule, effective dimensions, validation by subset."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor

from dimml.nn.dimensions import effective_dimensions
from dimml.nn.model import DetachedModel
from dimml.samples import subset_name, subsets
from train.config import Recipe
from train.data import Batch
from train.methods.dimml import losses

BEST = "val_accuracy"
"""Mean accuracy over the subsets of modalities: what the best epoch is chosen by."""


class DetachedModule(lightning.LightningModule):
    """Trains a `DetachedModel` by a recipe.

    Args:
        model: what to train.
        recipe: how.
    """

    def __init__(self, model: DetachedModel, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self._outputs: list[tuple[Tensor, Tensor, Tensor]] = []

    def configure_optimizers(self) -> Any:
        config = self.recipe.training
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
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
        config = self.recipe.training
        since = self.current_epoch - config.warm_up
        every = config.recompute_every
        if since == 0 or (since > 0 and every is not None and since % every == 0):
            self._find_effective_dimensions()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        # Dropout is the only randomness left in torch; so seeded, a resumed run repeats it.
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.global_step)
        features = self.model(batch.inputs, batch.present)
        config = self.recipe.training
        interact = self.current_epoch >= config.warm_up and config.lambda_duc > 0
        terms = losses(self.model, features, batch.present, batch.labels, config, interact)
        loss = torch.stack(list(terms.values())).sum()
        for name, value in {**terms, "loss": loss}.items():
            self.log(
                f"train_{name}", value, on_epoch=True, on_step=False, batch_size=len(batch.labels)
            )
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        features = self.model(batch.inputs, batch.present)
        logits = self.model.fusion.shared_classifier(features)
        self._outputs.append((logits, batch.present, batch.labels))

    def on_validation_epoch_end(self) -> None:
        logits, present, labels = (torch.cat(part) for part in zip(*self._outputs, strict=True))
        self._outputs.clear()
        accuracies = {}
        for subset in subsets(self.model.modalities):
            mask = subset_mask(subset, self.model.modalities, present.device)
            rows = present[:, mask].all(dim=1)
            if rows.any():
                kept = mask.expand(int(rows.sum()), -1)
                probabilities, _ = self.model.fusion.fuse(logits[rows], kept)
                right = probabilities.argmax(dim=1) == labels[rows]
                accuracies[subset_name(subset)] = right.float().mean()
        self.log(BEST, torch.stack(list(accuracies.values())).mean(), prog_bar=True)
        self.log_dict({f"{BEST}_{name}": value for name, value in accuracies.items()})

    @torch.no_grad()
    def _find_effective_dimensions(self) -> None:
        """Over the training split, in eval mode and without augmentation (method.md)."""
        self.model.eval()
        loader = self.trainer.datamodule.plain_train_dataloader()  # type: ignore[attr-defined]
        parts = [(self.model(b.inputs, b.present), b.present, b.labels) for b in loader]
        self.model.train()
        features, present, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        classes = self.model.fusion.shared_classifier.out_features
        for slot in range(len(self.model.modalities)):
            rows = present[:, slot]
            if rows.any():
                self.model.effective[slot] = effective_dimensions(
                    features[rows, slot], labels[rows], classes
                )


def subset_mask(subset: tuple[str, ...], modalities: tuple[str, ...], device: Any) -> Tensor:
    """Bool [M]: which slots a subset has."""
    return torch.tensor([name in subset for name in modalities], device=device)

"""Train on one device and on two, and write the losses and weights. Run by `test_devices.py`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

import train.methods.dimml
from dimml.nn.encoders import Encoder
from dimml.nn.model import EncoderInputs, MultimodalModel
from train.data.loader import Batch, EpochSampler
from train.methods import build_method
from train.module import TrainingModule
from train.recipe import Recipe
from train.training_config import TrainingConfig

OPTIONS = {"interaction": "linear"}
COUNT, SIZE, CLASSES = 24, 8, 3
BUCKET_MEBIBYTES = 1e-4
"""A bucket size so small that each layer sends its own gradients, as in a large model."""


# The devices draw the same modalities to drop, but hold the rows in another order than one device.
train.methods.dimml.MODALITY_DROPOUT = 0.0


class Linear(Encoder):
    """An encoder without batch normalisation, which each device would compute by itself."""

    def forward(self, values: Tensor) -> Tensor:
        features: Tensor = self.head(self.backbone(values))
        return features


class Rows(torch.utils.data.Dataset[int]):
    def __getitem__(self, key: Any) -> int:
        return int(key[1])


def collate(rows: list[int]) -> Batch:
    """Return a batch of three modalities; often no row of a device has the last one."""
    values = torch.randn(COUNT, 3, 5, generator=torch.Generator().manual_seed(1))
    present = torch.ones(COUNT, 3, dtype=torch.bool)
    present[:, 2] = torch.arange(COUNT) % 6 == 0
    chosen = torch.tensor(rows)
    inputs = {}
    for slot, name in enumerate("abc"):
        has = present[chosen, slot].nonzero().flatten()
        inputs[name] = (
            [EncoderInputs(has, {"values": values[chosen[has], slot]})] if len(has) else []
        )
    return Batch(inputs, present[chosen], chosen % CLASSES)


class Data(lightning.LightningDataModule):
    def __init__(self, devices: int) -> None:
        super().__init__()
        self.devices = devices

    def train_dataloader(self) -> Any:
        rank = self.trainer.global_rank if self.devices > 1 else 0
        sampler = EpochSampler(COUNT, 0, True, (rank, self.devices, SIZE))
        return DataLoader(Rows(), SIZE // self.devices, sampler=sampler, collate_fn=collate)

    def plain_train_dataloader(self) -> Any:
        return DataLoader(Rows(), SIZE, sampler=EpochSampler(COUNT, 0, False), collate_fn=collate)


def train_on(devices: int) -> tuple[dict[str, float], dict[str, Tensor], Tensor]:
    torch.manual_seed(0)
    encoders = [Linear(nn.Identity(), nn.Linear(5, 6)) for _ in "abc"]
    model = MultimodalModel("abc", encoders, 6, CLASSES)
    start = model.encoders[0].get_parameter("head.weight").detach().clone()
    training = TrainingConfig(epochs=3, warm_up=1, batch_size=SIZE, learning_rate=0.05)
    recipe = Recipe.model_construct(seed=0, training=training)
    module = TrainingModule(model, recipe, build_method("dimml", OPTIONS, training, model))
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=DDPStrategy(
            find_unused_parameters=True, start_method="fork", bucket_cap_mb=BUCKET_MEBIBYTES
        )
        if devices > 1
        else "auto",
        use_distributed_sampler=False,
        max_epochs=3,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tempfile.mkdtemp(),
    )
    trainer.fit(module, datamodule=Data(devices))
    losses = {name: float(value) for name, value in trainer.callback_metrics.items()}
    weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
    return losses, weights, start


if __name__ == "__main__":
    two_losses, two_weights, start = train_on(2)
    one_losses, one_weights, _ = train_on(1)
    results = {
        "one": {"losses": one_losses, "weights": one_weights},
        "two": {"losses": two_losses, "weights": two_weights},
        "start": start,
    }
    torch.save(results, Path(sys.argv[1]))

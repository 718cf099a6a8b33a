"""The batches of training."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from dimml.modalities import Text
from train.data.loader import Batch, Collate


def text_batch() -> Batch:
    tokenizer = {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}
    assets = {"tokenizer.json": json.dumps({"version": "1.0", "model": tokenizer}).encode()}
    item = {"input_ids": np.array([1, 2]), "attention_mask": np.array([1, 1])}
    kinds = {"note": Text("note", {"max_length": 4}, assets)}
    return Collate(kinds, training=False)([({"note": item}, 0), ({}, 1)])


def test_every_tensor_of_a_batch_is_page_locked_by_the_loader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = text_batch()
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor, *_: tensor + 100)
    pinned: Any = pin_memory(batch)
    [group], [copied] = batch.inputs["note"], pinned.inputs["note"]
    assert isinstance(pinned, Batch)
    assert torch.equal(pinned.labels, batch.labels + 100)
    assert torch.equal(pinned.present, batch.present + 100)
    assert torch.equal(copied.rows, group.rows + 100)
    for name, value in group.inputs.items():
        assert torch.equal(copied.inputs[name], value + 100)

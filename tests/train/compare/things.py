"""A table of two text columns, and a recipe for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from train.recipe import Recipe

HEADER = "id,split,label,title,note\n"
SPLITS = ("train", "train", "validation", "test")


def row(number: int) -> str:
    label = ("red", "blue")[number // 4 % 2]
    title = "" if number % 7 == 0 else f"{label} thing"
    return f"{number},{SPLITS[number % 4]},{label},{title},it is {label}\n"


def recipe_of(data: Path, **changes: Any) -> Recipe:
    document = {
        "name": "things",
        "data": data,
        "feature_dim": 8,
        "modalities": {"title": "text", "note": "text"},
        "training": {"epochs": 1, "warm_up": 0, "batch_size": 16},
    }
    return Recipe.model_validate({**document, **changes})

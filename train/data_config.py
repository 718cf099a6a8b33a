"""The data of a recipe: its tables, and what their columns hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pydantic

from dimml.table import SplitRule
from train.encoder_config import RecipePart

COLUMN, RULE = "column", "rule"
"""The two forms of `data.split`; pydantic adds them to the places of its errors."""


class SplitConfig(RecipePart):
    """The assignment of rows to splits, for a table without a split column, see `SplitRule`.

    Attributes:
        validation: Share of the rows, 0..1.
        test: Share of the rows, 0..1.
        by: Column whose equal values stay in one split.
        seed: Seed of the assignment.
    """

    validation: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.15
    test: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.15
    by: str | None = None
    seed: pydantic.NonNegativeInt = 0

    @pydantic.model_validator(mode="after")
    def _check_shares(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave no rows to train on; their sum must be < 1")
        return self


class DataConfig(RecipePart):
    """The tables of a recipe and the columns that are not modalities.

    Attributes:
        table: The manifest: a table (see `dimml.table`), or a folder or a pattern of tables. Like
            every path in a recipe and in `--set`, it is relative to the current folder.
        id: Column of the ids; a table without it has row numbers.
        label: Column of the labels.
        split: Column of the split names, or how rows are assigned to splits.
        keep_na: Whether CSV cells such as `NA` and `null` are text, rather than empty.
    """

    table: Path
    id: str = "id"
    label: str = "label"
    split: Annotated[
        Annotated[str, pydantic.Tag(COLUMN)] | Annotated[SplitConfig, pydantic.Tag(RULE)],
        pydantic.Discriminator(lambda value: COLUMN if isinstance(value, str) else RULE),
    ] = "split"
    keep_na: bool = False

    @property
    def columns(self) -> dict[str, str]:
        """The columns of `id`, `label` and `split`."""
        columns = {"id": self.id, "label": self.label}
        return columns | ({"split": self.split} if isinstance(self.split, str) else {})

    @property
    def rule(self) -> SplitRule | None:
        """How rows are assigned to splits, None where the table has a column of splits."""
        return None if isinstance(self.split, str) else SplitRule(**self.split.model_dump())

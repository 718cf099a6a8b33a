"""What the columns of a data set's tables hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pydantic

from dimml.table.splitting import SplitRule


class TableLayout(pydantic.BaseModel):
    """The columns of a table, which a recipe declares and a bundle keeps.

    Attributes:
        columns: Column of a modality, or of `id`, `split` and `label`, where the names differ.
        rule: How rows are assigned to splits, in place of a split column.
        keep_na: Whether CSV cells such as `NA` and `null` are text, rather than empty.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    columns: dict[str, str] = {}
    rule: SplitRule | None = None
    keep_na: bool = False

    def column(self, name: str) -> str:
        """Return the column of a modality, or of `id`, `split` or `label`."""
        return self.columns.get(name, name)


class TableSource(NamedTuple):
    """The tables of a data set.

    Attributes:
        path: A table, or a folder or a pattern of tables, which are read one after the other.
        kinds: Modality to kind.
        layout: What the columns hold.
    """

    path: Path
    kinds: Mapping[str, str]
    layout: TableLayout = TableLayout()

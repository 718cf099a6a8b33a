"""Tables of samples: Parquet, CSV or JSON lines.

A table (the data's "manifest") has one row per sample: `id`, `split` and `label` where they are
known, and one column per modality that holds a path (relative to the table), text, bytes, or a
list of paths. An empty cell is an absent modality.
"""

from __future__ import annotations

from dimml.table.formats import SUFFIXES, column_names
from dimml.table.layout import TableLayout, TableSource
from dimml.table.rows import Row, read_labels, read_rows
from dimml.table.splitting import SplitRule

__all__ = [
    "SUFFIXES",
    "Row",
    "SplitRule",
    "TableLayout",
    "TableSource",
    "column_names",
    "read_labels",
    "read_rows",
]

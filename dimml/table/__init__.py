"""Tables of samples: Parquet, CSV or JSON lines.

A table (the data's "manifest") has one row per sample: `id`, `split` and `label` where they are
known, and one column per modality that holds a path (relative to the table), text, bytes, or a
list of paths. An empty cell is an absent modality.
"""

from __future__ import annotations

from dimml.table.formats import SUFFIXES, column_names
from dimml.table.rows import Row, missing_columns, read_rows

__all__ = ["SUFFIXES", "Row", "column_names", "missing_columns", "read_rows"]

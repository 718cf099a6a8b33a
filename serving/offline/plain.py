"""Values of tables as plain Python and JSON types, the same whether pandas is installed or not."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute


def plain(table: pa.Table) -> pa.Table:
    """The table with dates and times as text, durations as integers, and NaN as null.

    Python has no nanoseconds, and JSON no NaN.
    """
    for index, field in enumerate(table.schema):
        column = table.column(index)
        if pa.types.is_duration(field.type):
            column = column.cast(pa.int64())
        elif pa.types.is_temporal(field.type):
            column = column.cast(pa.string())
        elif pa.types.is_floating(field.type) and not pa.types.is_float16(field.type):
            missing = pa.scalar(None, field.type)
            column = pyarrow.compute.if_else(pyarrow.compute.is_nan(column), missing, column)
        else:
            continue
        table = table.set_column(index, field.name, column)
    return table

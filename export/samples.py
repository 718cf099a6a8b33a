"""The samples of a table that an export checks or calibrates with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dimml.errors import InputError
from dimml.modalities import Arrays, Kind
from dimml.samples import is_absent
from dimml.table import Row


def readable_samples(kind: Kind, rows: Iterable[Row]) -> Iterator[Arrays]:
    """Yield the preprocessed samples of one modality; skip absent and unreadable ones."""
    for row in rows:
        value = row.sample[kind.name]
        if not is_absent(value):
            try:
                yield kind.preprocess(kind.decode(value))
            except InputError:
                continue

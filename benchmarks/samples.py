"""The samples of a data set that benchmarks send to servers and score in tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dimml.bundle import Bundle
from dimml.samples import is_absent
from dimml.table import TableSource, read_rows


def modality_kinds(bundle: Bundle) -> dict[str, str]:
    """Return the kind of each modality of a bundle."""
    return {name: spec.kind for name, spec in bundle.manifest.modalities.items()}


def read_samples(bundle: Bundle, data: Path, split: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the samples of `manifest.parquet`: paths of files, texts, None for absent modalities.

    Args:
        bundle: Names the modalities to read.
        data: Folder of the table. Paths are absolute if this folder is.
        split: The only split to read.
    """
    source = TableSource(data / "manifest.parquet", modality_kinds(bundle))
    for row in read_rows(source, split=split):
        yield {name: None if is_absent(v) else v for name, v in row.sample.items()}


def complete_samples(
    bundle: Bundle, data: Path, split: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the samples that have every modality of the bundle, see `read_samples`."""
    return (s for s in read_samples(bundle, data, split) if None not in s.values())

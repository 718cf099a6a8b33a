"""The specification of a bundle's modalities, and the kinds that are built from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from dimml.errors import BundleError
from dimml.modalities import KINDS, Kind, Limits
from dimml.table import TableLayout

FileName = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=128)]
"""A plain file name, which cannot lead out of the folder of the bundle."""


class ModalitySpec(pydantic.BaseModel):
    """The kind, the graph and the preprocessing of one modality.

    Attributes:
        kind: A key of `dimml.modalities.KINDS`.
        graph: File of the encoder graph.
        inputs: Names of the inputs of the graph.
        preprocessing: Configuration of the kind.
        encoder: Preset or pretrained model that the encoder was built from.
        pretrained: Whether that is a pretrained model.
        assets: Asset name of the kind to file.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    kind: str
    graph: FileName
    inputs: tuple[str, ...]
    preprocessing: dict[str, Any]
    encoder: str
    pretrained: bool = False
    assets: dict[str, FileName] = {}


def build_kinds(
    specs: Mapping[str, ModalitySpec],
    assets: Mapping[str, Mapping[str, bytes]],
    table: TableLayout,
    limits: Limits | None = None,
) -> dict[str, Kind]:
    """Build the kinds of all modalities, in the order of their specifications.

    Args:
        specs: Modality to specification.
        assets: Modality to the content of its assets.
        table: The columns that the modalities are read from.
        limits: Limits on each value.

    Raises:
        BundleError: If a preprocessing is not valid for its kind.
    """
    kinds = {name: build_kind(name, spec, assets[name], limits) for name, spec in specs.items()}
    for names in shared_columns(specs, table).values():
        for name in names:
            kinds[name].shares_files = True
    return kinds


def build_kind(
    name: str, spec: ModalitySpec, assets: Mapping[str, bytes], limits: Limits | None
) -> Kind:
    """Build the kind of a modality from its specification.

    Raises:
        BundleError: If the preprocessing is not valid for the kind.
    """
    try:
        return KINDS[spec.kind](name, spec.preprocessing, assets, limits)
    except pydantic.ValidationError as error:
        raise BundleError(f"modality {name}: invalid preprocessing: {error}") from error


def shared_columns(
    specs: Mapping[str, ModalitySpec], table: TableLayout
) -> dict[str, tuple[str, ...]]:
    """Return the columns that several modalities read, such as that of videos with their sound.

    A sample may give such a value once, under the name of the column. A column that is named after
    a modality stands for that modality alone.
    """
    readers: dict[str, list[str]] = {}
    for name in specs:
        readers.setdefault(table.column(name), []).append(name)
    shared = {}
    for column, names in readers.items():
        are_texts = {specs[name].kind == "text" for name in names}
        if len(names) > 1 and len(are_texts) == 1 and column not in specs:
            shared[column] = tuple(names)
    return shared

"""The names of modalities: their form, and the names that something else already uses."""

from __future__ import annotations

from typing import Annotated

import pydantic

ModalityName = Annotated[str, pydantic.Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=32)]
"""A modality name, which also serves as a file name, a form field and a column prefix."""

RESERVED_NAMES: dict[str, tuple[str, ...]] = {
    "columns of a table": ("id", "split", "label"),
    "columns of scores": (
        *("confidence", "prediction_set", "probabilities"),
        *("error_code", "error_field", "error_message"),
    ),
    "options of `dimml predict`": (
        *("bundle", "explain", "help", "json", "on_unreadable", "providers"),
    ),
    "files of a bundle": ("classifier", "evaluation", "manifest", "readme"),
    "devices on Windows": (
        *("aux", "con", "nul", "prn"),
        *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)),
    ),
}
"""Names that a modality cannot have, grouped by what already uses them."""

SCORE_SUFFIXES = ("present", "label", "confidence", "weight", "features")
"""Scores have a column `<modality>_<suffix>` for each of these."""


def reserved_name_problem(name: str, modalities: list[str]) -> str | None:
    """Return why a modality cannot have this name, or None if it can.

    Args:
        name: Name of the modality.
        modalities: Names of all modalities of the bundle.
    """
    for owner, names in RESERVED_NAMES.items():
        if name in names:
            return f"the name is reserved: {owner} are {', '.join(names)}; choose another name"
    stem, _, suffix = name.rpartition("_")
    if suffix in SCORE_SUFFIXES and stem in modalities:
        columns = ", ".join(f"{stem}_{suffix}" for suffix in SCORE_SUFFIXES)
        return f"the name is reserved: scores of {stem} are {columns}; choose another name"
    return None

"""Names that a modality cannot have, because something else beside it has them."""

from __future__ import annotations

RESERVED: dict[str, tuple[str, ...]] = {
    "columns of a table": ("id", "split", "label"),
    "columns of scores": (
        "confidence",
        "prediction_set",
        "probabilities",
        "error_code",
        "error_field",
        "error_message",
    ),
    "options of `dimml predict`": ("bundle", "help", "json", "on_unreadable", "providers"),
    "files of a bundle": ("classifier", "evaluation", "manifest", "readme"),
    "devices on Windows": (
        *("aux", "con", "nul", "prn"),
        *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)),
    ),
}
"""What has the names, and the names."""

SCORE_SUFFIXES = ("present", "label", "confidence", "weight")
"""Scores have a column `<modality>_<suffix>` for each of these."""


def why_reserved(name: str, modalities: list[str]) -> str | None:
    """What to say of a name that a modality cannot have; None for one that it can.

    Args:
        name: of the modality.
        modalities: the names of all.
    """
    for what, names in RESERVED.items():
        if name in names:
            return f"the name is reserved: {what} are {', '.join(names)}; choose another name"
    stem, _, suffix = name.rpartition("_")
    if suffix in SCORE_SUFFIXES and stem in modalities:
        columns = ", ".join(f"{stem}_{suffix}" for suffix in SCORE_SUFFIXES)
        return f"the name is reserved: scores of {stem} are {columns}; choose another name"
    return None

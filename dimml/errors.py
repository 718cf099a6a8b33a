"""Typed errors. A message says what is wrong, where, what is accepted and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

InputErrorCode = Literal[
    "no_modality",
    "unreadable",
    "too_large",
    "unsupported_type",
    "unknown_field",
    "invalid_request",
]


def shorten(text: str, limit: int = 80) -> str:
    """Return a user's text for a message: whole, or its beginning with an ellipsis."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def list_first(names: Sequence[str], shown: int) -> str:
    """Return the first names of a list that may be long, each shortened, and how many follow."""
    more = len(names) - shown
    listed = ", ".join(map(shorten, names[:shown]))
    return f"{listed} and {more:,} more" if more > 0 else listed


class DimmlError(Exception):
    """Base class of all errors that dimml raises on purpose.

    Attributes:
        exit_code: Exit code of the command line: 1 (failed) or 2 (bad usage or input).
    """

    exit_code: int = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InputError(DimmlError):
    """One sample cannot be predicted. `predict` raises the error; `predict_many` returns it.

    Attributes:
        code: One of `InputErrorCode`. The HTTP service maps the code to a status.
        message: What is wrong and what is accepted.
        field: Modality or field with the error, None if the error concerns the whole sample.
    """

    exit_code = 2

    def __init__(self, code: InputErrorCode, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code: InputErrorCode = code
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message

    def __reduce__(self) -> tuple[type[InputError], tuple[InputErrorCode, str, str | None]]:
        # The default pickles the message alone, which is not what `__init__` takes.
        return type(self), (self.code, self.message, self.field)


class AbsentError(InputError):
    """A readable file has nothing for its modality, such as a video without a sound track.

    The modality counts as absent, and the message becomes a warning.
    """


class UsageError(DimmlError):
    """A command or a call received an unusable path, option or argument, or lacks an extra."""

    exit_code = 2


class BundleError(UsageError):
    """The bundle is missing, damaged, of an unknown version, or refers to outside files."""


class ManifestError(UsageError):
    """The table of samples cannot be read or lacks a required column or value."""


class RecipeError(UsageError):
    """The training recipe is invalid."""


class ProviderError(DimmlError):
    """The requested execution provider is not available or does not work."""


class ParityError(DimmlError):
    """The outputs of PyTorch and ONNX differ by more than the tolerance. Nothing was written."""


class PrecisionError(DimmlError):
    """The bundle would lose more accuracy at this precision than allowed. Nothing was written."""


class TrainingError(DimmlError):
    """Training failed, for example because the weights are no longer finite."""


class InterruptedRunError(DimmlError):
    """The user stopped the run. The same command with `--resume` continues it."""

    exit_code = 3

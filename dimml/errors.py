"""Typed errors. Each message says what was wrong, what is accepted and what to do next."""

from __future__ import annotations

from typing import Literal

InputErrorCode = Literal[
    "no_modality",
    "unreadable",
    "too_large",
    "unsupported_type",
    "unknown_field",
    "invalid_request",
]


class DimmlError(Exception):
    """Base of every error raised on purpose by dimml.

    Attributes:
        exit_code: what the command line exits with: 1 (failed) or 2 (bad usage or input).
    """

    exit_code: int = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InputError(DimmlError):
    """One sample cannot be predicted. Both raised and, by `predict_many`, returned per item.

    Attributes:
        code: one of `InputErrorCode`; the HTTP service maps it to a status.
        message: what was wrong and what is accepted.
        field: the modality or field concerned, None for the sample as a whole.
    """

    exit_code = 2

    def __init__(self, code: InputErrorCode, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code: InputErrorCode = code
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message

    def __reduce__(self) -> tuple[type[InputError], tuple[InputErrorCode, str, str | None]]:
        # An exception otherwise goes to another process by its message alone.
        return InputError, (self.code, self.message, self.field)


class UsageError(DimmlError):
    """The command or call was given something it cannot use (a path, an option, an extra)."""

    exit_code = 2


class BundleError(UsageError):
    """The bundle is missing, damaged, of an unknown version, or points outside its folder."""


class ManifestError(UsageError):
    """The table of samples cannot be read or lacks what is asked of it."""


class RecipeError(UsageError):
    """The training recipe is invalid."""


class ProviderError(DimmlError):
    """The execution provider asked for is not the one onnxruntime would use."""


class ParityError(DimmlError):
    """PyTorch and ONNX disagree by more than the tolerance; nothing was written."""


class PrecisionError(DimmlError):
    """At a lower precision the bundle would be less accurate than allowed; nothing was written."""


class TrainingError(DimmlError):
    """Training came to nothing: its weights are not finite any more."""


class InterruptedRunError(DimmlError):
    """Stopped on request; running the same command with `--resume` goes on."""

    exit_code = 3

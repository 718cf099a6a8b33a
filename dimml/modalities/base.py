"""The contract of a modality kind: decode, preprocess, collate."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pydantic

from dimml.errors import InputError, InputErrorCode

Arrays = dict[str, np.ndarray]
"""Graph input name to array."""


class KindConfig(pydantic.BaseModel):
    """Base of the preprocessing configurations: frozen, and an unknown key is an error."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Limits:
    """Caps checked before the expensive step they guard.

    Attributes:
        bytes: of one encoded value.
        pixels: of one image, as its header declares them.
        seconds: of one recording, as decoded.
        characters: of one text.
        frames: items of one list of images.
    """

    bytes: int = 512 * 1024 * 1024
    pixels: int = 40_000_000
    seconds: float = 600.0
    characters: int = 20_000
    frames: int = 1_000


class Kind(ABC):
    """One modality of a bundle: its preprocessing, configured by the bundle alone.

    Training, export, HTTP and batch scoring all run this same code, so a sample is the same
    numbers everywhere. Nothing here is random: augmentation belongs to training.

    Args:
        name: the modality's name, reported as the field of its errors.
        config: a validated `Config`, or its keys and values.
        assets: file suffix to content, such as `tokenizer.json`.
        limits: caps on what is accepted.
    """

    Config: ClassVar[type[KindConfig]]
    config: Any
    input_names: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        assets: Mapping[str, bytes] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.name = name
        self.limits = limits or Limits()
        self.config = self.Config.model_validate(dict(config))
        self._setup(assets or {})

    @abstractmethod
    def _setup(self, assets: Mapping[str, bytes]) -> None:
        """Precomputes what every sample needs."""

    @abstractmethod
    def decode(self, value: Any) -> Any:
        """Reads one value into its raw form.

        Args:
            value: bytes (a file's content), a path, an open binary file or an array.

        Raises:
            InputError: `unreadable`, `unsupported_type` or `too_large`, with this modality
                as its field.
        """

    @abstractmethod
    def preprocess(self, raw: Any) -> Arrays:
        """Turns one decoded value into its arrays, without a batch axis."""

    @abstractmethod
    def warnings(self, raw: Any) -> tuple[str, ...]:
        """What a person should know about this value, in short sentences."""

    @abstractmethod
    def example(self) -> Any:
        """A small valid value as `decode` takes it; warms a service up through the real path."""

    def memory(self, raw: Any) -> int:
        """About how many bytes a decoded value takes, where that can be much."""
        return 0

    def bucket(self, arrays: Arrays) -> Hashable:
        """Samples of equal buckets may share one graph call; by default, equal shapes."""
        return tuple(array.shape for array in arrays.values())

    def collate(self, items: Sequence[Arrays]) -> Arrays:
        """Joins the arrays of one bucket's samples along a new first axis."""
        return {name: np.stack([item[name] for item in items]) for name in self.input_names}

    def pad(self, inputs: Arrays) -> Arrays:
        """A batch in one of few shapes, with the same answers, for a device that prepares each."""
        return inputs

    def warm_inputs(self, size: int) -> list[Arrays]:
        """Batches of `size` examples, one in each shape that `pad` gives where these are few."""
        item = self.preprocess(self.decode(self.example()))
        return [self.collate([item] * size)]

    def error(self, code: InputErrorCode, message: str) -> InputError:
        """An `InputError` about this modality."""
        return InputError(code, message, self.name)

    def read_bytes(self, value: Any) -> bytes:
        """The encoded content of a value given as bytes, a path or an open binary file.

        Raises:
            InputError: the file is missing, is no file, is empty or is over `limits.bytes`.
        """
        if isinstance(value, str | Path):
            data = self._read_file(Path(value))
        elif hasattr(value, "read"):
            try:
                data = value.read(self.limits.bytes + 1)
            except (OSError, ValueError) as error:
                raise self.error("unreadable", f"cannot read the open file: {error}") from error
        else:
            data = value
        if not isinstance(data, bytes | bytearray | memoryview):
            raise self.error(
                "unreadable",
                f"expected bytes, a path or an open binary file, got {type(value).__name__}",
            )
        if len(data) > self.limits.bytes:
            raise self.error("too_large", f"over the limit of {self.limits.bytes:,} bytes")
        if not data:
            raise self.error("unreadable", "the file is empty (0 bytes)")
        return bytes(data)

    def _read_file(self, path: Path) -> bytes:
        try:
            if not path.is_file():
                what = "not a regular file" if path.exists() else "no such file"
                raise self.error("unreadable", f"{what}: {path}")
            with path.open("rb", buffering=0) as file:
                # Python makes room for as many bytes as are asked for, before it reads.
                size = os.fstat(file.fileno()).st_size
                return file.read(min(size, self.limits.bytes) + 1) or b""
        except (OSError, ValueError) as error:
            raise self.error("unreadable", f"cannot read {path}: {error}") from error

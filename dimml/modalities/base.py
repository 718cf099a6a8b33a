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

from dimml.errors import AbsentError, InputError, InputErrorCode, shorten
from dimml.modalities.paths import missing_file_message, other_form, path_hint

Arrays = dict[str, np.ndarray]
"""Graph input name to array."""


class KindConfig(pydantic.BaseModel):
    """Base of the preprocessing configurations, which are frozen and reject unknown keys."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Limits:
    """Limits on one value, each checked before the expensive step that it guards.

    Attributes:
        bytes: Bytes of an encoded value.
        pixels: Pixels of an image according to its header.
        seconds: Seconds of a decoded recording.
        characters: Characters of a text, if its configuration allows more. More are cut.
        frames: Frames of a list of images or of an animation.
    """

    bytes: int = 512 * 1024 * 1024
    pixels: int = 40_000_000
    seconds: float = 600.0
    characters: int = 1_000_000
    frames: int = 1_000


class Kind(ABC):
    """The preprocessing of one modality, configured by the bundle.

    Training, export, HTTP and batch scoring all run this code, so a sample becomes the same numbers
    everywhere. Kinds are deterministic: augmentation belongs to training.

    Args:
        name: Name of the modality, which is the field of its errors.
        config: Keys and values of `Config`.
        assets: File suffix to content, such as `tokenizer.json`.
        limits: Limits on each value.
    """

    Config: ClassVar[type[KindConfig]]
    config: Any
    input_names: tuple[str, ...]
    shares_files: bool = False
    """Whether another modality reads the same files, which then may lack what this one reads."""
    cpu_call_size: ClassVar[int] = 160_000
    """Total of `size` in one graph call on the CPU: one picture of 224 px, or 8 s of a spectrogram.

    Larger calls leave the processor's caches and take more memory, and are not faster.
    """

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

    @property
    def max_files(self) -> int:
        """The number of files that one value can have."""
        return 1

    @classmethod
    def inputs_of(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the graph inputs for a configuration."""
        return cls.input_names

    @abstractmethod
    def _setup(self, assets: Mapping[str, bytes]) -> None:
        """Precompute the data that every sample needs."""

    @abstractmethod
    def decode(self, value: Any) -> Any:
        """Decode one value to its raw form.

        Args:
            value: bytes (the content of a file), a path, an open binary file, an array, or a list
                of one of these.

        Raises:
            InputError: If the value is unreadable, too large or of an unsupported type.
            AbsentError: If the value is a readable file with nothing for this modality.
        """

    @abstractmethod
    def preprocess(self, raw: Any) -> Arrays:
        """Convert one decoded value to arrays without a batch axis."""

    def compact(self, raw: Any) -> Arrays:
        """Return small arrays, from which `expand` computes the result of `preprocess`."""
        return self.preprocess(raw)

    def expand(self, arrays: Arrays) -> Arrays:
        """Return the result of `preprocess` from that of `compact`."""
        return arrays

    @abstractmethod
    def warnings(self, raw: Any) -> tuple[str, ...]:
        """Return notes for the user about this value, as short sentences."""

    @abstractmethod
    def example(self) -> Any:
        """Return a small valid value for `decode`, used to warm up the predictor."""

    def memory(self, raw: Any) -> int:
        """Return the approximate size of a decoded value in bytes, or 0 if always small."""
        return 0

    def bucket(self, arrays: Arrays) -> Hashable:
        """Return a key, by default the shapes. Samples with equal keys can share a graph call."""
        return tuple(array.shape for array in arrays.values())

    def size(self, arrays: Arrays) -> int:
        """Return the size of one sample in a graph call, by default its number of values."""
        return sum(array.size for array in arrays.values())

    def cpu_calls(self, items: Sequence[Arrays]) -> list[list[int]]:
        """Return the positions of the samples of each graph call, from samples of one bucket.

        Samples of about equal size share a call, so there is little padding, and a call is small
        enough to stay in the processor's caches.
        """
        sizes = [self.size(item) for item in items]
        calls: list[list[int]] = [[]]
        for position in sorted(range(len(items)), key=sizes.__getitem__):
            # This sample is the largest of its call, to whose size the others are padded.
            if calls[-1] and (len(calls[-1]) + 1) * sizes[position] > self.cpu_call_size:
                calls.append([])
            calls[-1].append(position)
        return calls

    def collate(self, items: Sequence[Arrays]) -> Arrays:
        """Stack the arrays of samples with equal buckets along a new first axis."""
        return {name: np.stack([item[name] for item in items]) for name in self.input_names}

    def pad(self, inputs: Arrays) -> Arrays:
        """Pad a batch to one of few shapes, because a GPU prepares kernels for each new shape."""
        return inputs

    def warm_inputs(self, size: int) -> list[Arrays]:
        """Return batches of `size` examples, one in each shape that `pad` returns."""
        item = self.preprocess(self.decode(self.example()))
        return [self.collate([item] * size)]

    def accepts(self) -> str:
        """Return what to send for a modality of this kind, for documents."""
        return "a file"

    def only_value(self, value: Any) -> Any:
        """Return the entry of a list of one value, and any other value as it is."""
        is_list = isinstance(value, list | tuple)
        return value[0] if is_list and len(value) == 1 else value

    def error(self, code: InputErrorCode, message: str) -> InputError:
        """Return an `InputError` with this modality as its field."""
        return InputError(code, message, self.name)

    def absent(self, message: str) -> AbsentError:
        """Return the error for a readable file with nothing for this modality."""
        return AbsentError("no_modality", message, self.name)

    def read_bytes(self, value: Any) -> bytes:
        """Return the encoded content of bytes, a path or an open binary file.

        Raises:
            InputError: If the file is missing, not a regular file, empty or over `limits.bytes`.
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
            # `Path.is_file` raises some errors before Python 3.14, and none since.
            if not os.path.isfile(path) and not os.path.isfile(path := other_form(path)):
                raise self.error("unreadable", missing_file_message(path))
            with path.open("rb", buffering=0) as file:
                # `read` allocates the requested size, even if the file is smaller.
                size = os.fstat(file.fileno()).st_size
                return file.read(min(size, self.limits.bytes) + 1) or b""
        except (OSError, ValueError) as error:
            # The text of an OSError repeats the whole path.
            reason = getattr(error, "strerror", None) or error
            hint = path_hint(str(path))
            message = f"cannot read {shorten(str(path))}: {reason}{hint}"
            raise self.error("unreadable", message) from error

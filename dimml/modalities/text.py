"""Text: from a string to token ids, with the tokenizer of the bundle."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic
import tokenizers

from dimml.errors import BundleError
from dimml.modalities.base import Arrays, Kind, KindConfig

TOKENIZER = "tokenizer.json"


class TextConfig(KindConfig):
    """The preprocessing of text.

    Attributes:
        max_length: Maximum number of tokens, including special tokens. More are cut.
    """

    max_length: Annotated[int, pydantic.Field(ge=2, le=8192)] = 64


@dataclass(frozen=True)
class Tokens:
    """A tokenised text: its token ids, and its number of tokens before the cut."""

    ids: tuple[int, ...]
    original_length: int


class Text(Kind):
    """Strings in any language.

    Graph inputs: `input_ids` and `attention_mask`, int64 [N, tokens].
    """

    Config = TextConfig
    config: TextConfig
    input_names = ("input_ids", "attention_mask")

    def _setup(self, assets: Mapping[str, bytes]) -> None:
        if TOKENIZER not in assets:
            raise BundleError(f"{self.name}: a text modality needs {self.name}.{TOKENIZER}")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(assets[TOKENIZER].decode())
        # `tokenizers` raises plain `Exception`.
        except Exception as error:
            raise BundleError(f"{self.name}: {TOKENIZER} cannot be read: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @property
    def vocab_size(self) -> int:
        """Number of rows of the embedding table of the encoder."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def special_ids(self) -> list[int]:
        """Ids of the special tokens, such as padding, unknown, start and end."""
        added = self._tokenizer.get_added_tokens_decoder()
        return [number for number, token in added.items() if token.special]

    @property
    def unknown_id(self) -> int | None:
        """Id of the token for text outside the vocabulary, or None if every text is inside."""
        name = getattr(self._tokenizer.model, "unk_token", None)
        return None if name is None else self._tokenizer.token_to_id(name)

    def decode(self, value: Any) -> Tokens:
        """Normalise a text to NFC and tokenise it.

        Args:
            value: The text itself as str, UTF-8 bytes, a `Path` or an open binary file.
        """
        text = value if isinstance(value, str) else self._read(value)
        if len(text) > self.limits.characters:
            raise self.error(
                "too_large",
                f"{len(text):,} characters: over the limit of {self.limits.characters:,}",
            )
        try:
            # Equal-looking text can be composed or decomposed, and tokenizers tell the two apart.
            ids = self._tokenizer.encode(unicodedata.normalize("NFC", text)).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise self.error("unreadable", "the text is not valid Unicode") from error
        if not ids or not text.strip():
            raise self.error("unreadable", "the text has no tokens")
        # A cut keeps the last token, because that is the end token of most tokenizers.
        limit = self.config.max_length
        kept = ids[: limit - 1] + ids[-1:] if len(ids) > limit else ids
        return Tokens(tuple(kept), len(ids))

    def preprocess(self, raw: Tokens) -> Arrays:
        """Return the token ids and their mask, int64 [tokens] each."""
        ids = np.asarray(raw.ids, np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def collate(self, items: Sequence[Arrays]) -> Arrays:
        """Pad to the longest text. Padding is masked, so it does not affect predictions."""
        longest = max(len(item["input_ids"]) for item in items)
        batch = {name: np.zeros((len(items), longest), np.int64) for name in self.input_names}
        for row, item in enumerate(items):
            for name in self.input_names:
                batch[name][row, : len(item[name])] = item[name]
        return batch

    def bucket(self, arrays: Arrays) -> tuple[()]:
        return ()

    def pad(self, inputs: Arrays) -> Arrays:
        """Pad to a power of two of tokens, at least 16, or to `max_length`."""
        tokens = next(iter(inputs.values())).shape[1]
        return _pad_tokens(inputs, min(n for n in self._lengths() if n >= tokens))

    def warm_inputs(self, size: int) -> list[Arrays]:
        [shortest] = super().warm_inputs(size)
        tokens = next(iter(shortest.values())).shape[1]
        return [_pad_tokens(shortest, length) for length in self._lengths() if length >= tokens]

    def _lengths(self) -> list[int]:
        limit = self.config.max_length
        powers = [2**n for n in range(4, limit.bit_length()) if 2**n < limit]
        return [*powers, limit]

    def warnings(self, raw: Tokens) -> tuple[str, ...]:
        if raw.original_length > self.config.max_length:
            return (
                f"the text has {raw.original_length} tokens; only the first "
                f"{self.config.max_length} were used",
            )
        return ()

    def example(self) -> str:
        return "one two three"

    def _read(self, value: Any) -> str:
        if not (isinstance(value, bytes | bytearray | memoryview | Path) or hasattr(value, "read")):
            raise self.error("unreadable", f"expected text, got {type(value).__name__}")
        try:
            # Some Windows editors start a file with a byte order mark.
            return self.read_bytes(value).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.error("unreadable", f"the text is not UTF-8: {error}") from error


def _pad_tokens(inputs: Arrays, tokens: int) -> Arrays:
    return {
        name: np.pad(array, ((0, 0), (0, tokens - array.shape[1])))
        for name, array in inputs.items()
    }

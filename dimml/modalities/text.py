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
        max_characters: Maximum number of characters. More are cut before the tokenizer sees them,
            which bounds its time.
        prompt: Text that is put before every text, such as `query: ` for E5 models.
        pad_to_max: Whether every text is padded to `max_length`, for models that were trained so.
            Otherwise a text is padded to the longest text of its batch.
        pad_id: Token id of the padding.
    """

    max_length: Annotated[int, pydantic.Field(ge=2, le=8192)] = 64
    max_characters: Annotated[int, pydantic.Field(ge=1, le=1_000_000)] = 20_000
    prompt: Annotated[str, pydantic.Field(max_length=1000)] = ""
    pad_to_max: bool = False
    pad_id: pydantic.NonNegativeInt = 0


def plain_text(value: Any, max_characters: int) -> str:
    """Return the beginning of a text, file or UTF-8 bytes; "" where it cannot be read."""
    max_bytes = 4 * max_characters  # UTF-8 has up to four bytes a character.
    if isinstance(value, Path):
        try:
            with value.open("rb") as file:
                value = file.read(max_bytes)
        except (OSError, ValueError):
            return ""
    if isinstance(value, bytes):
        value = value[:max_bytes].decode("utf-8-sig", errors="ignore")
    return value[:max_characters] if isinstance(value, str) else ""


@dataclass(frozen=True)
class Tokens:
    """A tokenised text.

    Attributes:
        ids: Token ids, cut to `max_length`.
        original_length: Number of tokens before that cut.
        characters: Number of characters of the whole text.
        used_characters: Number of characters that were tokenised.
    """

    ids: tuple[int, ...]
    original_length: int
    characters: int
    used_characters: int


class Text(Kind):
    """Strings in any language.

    Graph inputs: `input_ids` and `attention_mask`, int64 [N, tokens].
    """

    Config = TextConfig
    config: TextConfig
    input_names = ("input_ids", "attention_mask")
    cpu_call_size = 1024

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

    def accepts(self) -> str:
        return "plain text in UTF-8"

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
            value: The text itself as str, UTF-8 bytes, a `Path` or an open binary file, or a list
                of one of these.
        """
        value = self.only_value(value)
        whole = value if isinstance(value, str) else self._read(value)
        text = whole[: min(self.config.max_characters, self.limits.characters)]
        try:
            # Equal-looking text can be composed or decomposed, and tokenizers tell the two apart.
            prompted = self.config.prompt + unicodedata.normalize("NFC", text)
            ids = self._tokenizer.encode(prompted).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise self.error("unreadable", "the text is not valid Unicode") from error
        if not ids or not text.strip():
            raise self.error("unreadable", "the text has no tokens")
        # A cut keeps the last token, because that is the end token of most tokenizers.
        limit = self.config.max_length
        kept = ids[: limit - 1] + ids[-1:] if len(ids) > limit else ids
        return Tokens(tuple(kept), len(ids), len(whole), len(text))

    def preprocess(self, raw: Tokens) -> Arrays:
        """Return the token ids and their mask, int64 [tokens] each."""
        ids = np.asarray(raw.ids, np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def collate(self, items: Sequence[Arrays]) -> Arrays:
        """Pad to the longest text. Padding is masked, so it does not affect predictions."""
        longest = max(len(item["input_ids"]) for item in items)
        if self.config.pad_to_max:
            longest = self.config.max_length
        ids = np.full((len(items), longest), self.config.pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, item in enumerate(items):
            ids[row, : len(item["input_ids"])] = item["input_ids"]
            mask[row, : len(item["input_ids"])] = item["attention_mask"]
        return {"input_ids": ids, "attention_mask": mask}

    def bucket(self, arrays: Arrays) -> tuple[()]:
        return ()

    def size(self, arrays: Arrays) -> int:
        """Return the number of tokens, with padding if every text has the same."""
        return self.config.max_length if self.config.pad_to_max else len(arrays["input_ids"])

    def pad(self, inputs: Arrays) -> Arrays:
        """Pad to a power of two of tokens, at least 16, or to `max_length`."""
        tokens = inputs["input_ids"].shape[1]
        return self._pad_tokens(inputs, min(n for n in self._lengths() if n >= tokens))

    def warm_inputs(self, size: int) -> list[Arrays]:
        [shortest] = super().warm_inputs(size)
        tokens = shortest["input_ids"].shape[1]
        return [self._pad_tokens(shortest, n) for n in self._lengths() if n >= tokens]

    def _lengths(self) -> list[int]:
        limit = self.config.max_length
        powers = [2**n for n in range(4, limit.bit_length()) if 2**n < limit]
        return [*powers, limit]

    def warnings(self, raw: Tokens) -> tuple[str, ...]:
        notes = []
        if raw.used_characters < raw.characters:
            notes.append(
                f"the text has {raw.characters:,} characters; only the first "
                f"{raw.used_characters:,} were read"
            )
        if raw.original_length > self.config.max_length:
            notes.append(
                f"the text has {raw.original_length} tokens; only the first "
                f"{self.config.max_length} were used"
            )
        return tuple(notes)

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

    def _pad_tokens(self, inputs: Arrays, tokens: int) -> Arrays:
        padding = ((0, 0), (0, tokens - inputs["input_ids"].shape[1]))
        return {
            "input_ids": np.pad(inputs["input_ids"], padding, constant_values=self.config.pad_id),
            "attention_mask": np.pad(inputs["attention_mask"], padding),
        }

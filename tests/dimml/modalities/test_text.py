from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from dimml.errors import BundleError, InputError
from dimml.modalities import Limits, Text
from dimml.samples import is_absent

CLS, SEP = 1, 2


def byte_tokenizer() -> bytes:
    """Return a tokenizer with one token per byte, so that different texts have different tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        [],
        trainers.BpeTrainer(
            special_tokens=["[PAD]", "[CLS]", "[SEP]"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return tokenizer.to_str().encode()


def text(limits: Limits | None = None, **config: Any) -> Text:
    return Text("words", config, {"tokenizer.json": byte_tokenizer()}, limits)


def tokens(value: Any, **config: Any) -> list[int]:
    kind = text(**config)
    return kind.preprocess(kind.decode(value))["input_ids"].tolist()


def decode_error(kind: Text, value: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        kind.decode(value)
    assert caught.value.field == "words"
    return caught.value


class TestDecoding:
    @pytest.mark.parametrize(
        ("decomposed", "composed"),
        [
            ("cafe\u0301", "caf\u00e9"),
            ("\u1112\u1161\u11ab", "\ud55c"),
            ("\u212b", "\u00c5"),
            ("\u05e9\u05c1", "\ufb2a"),
        ],
        ids=["Latin", "Hangul", "Angstrom", "Hebrew"],
    )
    def test_equivalent_texts_have_equal_tokens(self, decomposed: str, composed: str) -> None:
        assert tokens(decomposed) == tokens(composed)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("seven", "Seven"),
            ("x\u00b2", "x2"),
            ("👨‍👩‍👧", "👨👩👧"),
            ("7️⃣", "7"),
            ("שבע", "עבש"),
            ("a\0b", "ab"),
        ],
        ids=["case", "superscript", "family", "keycap", "right to left", "null byte"],
    )
    def test_different_texts_have_different_tokens(self, one: str, other: str) -> None:
        assert tokens(one) != tokens(other)

    @pytest.mark.parametrize("value", ["seven", "sieben 7️⃣", "סבע شش", "a\0b", "\u200b", "x\n\ty"])
    def test_text_from_str_bytes_path_and_file_is_equal(self, value: str, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(value.encode())
        with path.open("rb") as file:
            for source in (value.encode(), bytearray(value.encode()), path, file):
                assert tokens(source) == tokens(value)

    def test_byte_order_mark_is_removed(self) -> None:
        assert tokens(b"\xef\xbb\xbfseven") == tokens("seven")

    def test_str_is_never_a_path(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("seven")
        assert tokens(str(path)) != tokens(path)


class TestPreprocessing:
    def test_tokens_are_unmasked_between_special_tokens(self) -> None:
        kind = text()
        arrays = kind.preprocess(kind.decode("abc"))
        assert [array.dtype for array in arrays.values()] == [np.int64, np.int64]
        assert arrays["input_ids"][[0, -1]].tolist() == [CLS, SEP]
        assert arrays["attention_mask"].tolist() == [1] * 5

    def test_collate_pads_to_the_longest_text_and_masks_padding(self) -> None:
        kind = text()
        items = [kind.preprocess(kind.decode(value)) for value in ("abc", "a")]
        batch = kind.collate(items)
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
        assert batch["input_ids"][1].tolist() == [*items[1]["input_ids"].tolist(), 0, 0]
        assert kind.bucket(items[0]) == kind.bucket(items[1])

    @pytest.mark.parametrize(("length", "cut"), [(7, False), (8, False), (9, True), (500, True)])
    def test_long_text_is_cut_before_its_end_token_with_a_warning(
        self, length: int, cut: bool
    ) -> None:
        kind = text(max_length=10)
        raw = kind.decode("a" * length)
        ids = kind.preprocess(raw)["input_ids"]
        assert len(ids) == min(length + 2, 10)
        assert ids[[0, -1]].tolist() == [CLS, SEP]
        expected = f"the text has {length + 2} tokens; only the first 10 were used"
        assert kind.warnings(raw) == ((expected,) if cut else ())


class TestCharacters:
    def test_text_over_the_limit_is_cut_before_tokenisation_with_a_warning(self) -> None:
        kind = text(max_characters=100, max_length=1_000)
        raw = kind.decode("ab" * 60)
        assert raw.ids == kind.decode("ab" * 50).ids
        assert kind.warnings(raw) == ("the text has 120 characters; only the first 100 were read",)

    @pytest.mark.parametrize("length", [1, 19_999, 20_000])
    def test_text_up_to_the_limit_is_not_changed(self, length: int) -> None:
        kind = text(max_length=8_000)
        raw = kind.decode("a" * length)
        assert raw.original_length == length + 2
        assert not any("characters" in warning for warning in kind.warnings(raw))

    def test_text_over_the_default_limit_is_cut_at_20_000_characters(self) -> None:
        kind = text()
        assert kind.decode("a" * 30_000).original_length == 20_002

    @pytest.mark.parametrize(("configured", "limit"), [(100, 50), (50, 100)])
    def test_the_lower_limit_applies(self, configured: int, limit: int) -> None:
        kind = text(Limits(characters=limit), max_characters=configured)
        assert kind.decode("a" * 200).original_length == 52

    def test_limit_is_in_characters_not_bytes(self) -> None:
        kind = text(max_characters=3, max_length=64)
        assert len(kind.decode("😀😀😀").ids) == 14
        assert kind.decode("😀😀😀😀").ids == kind.decode("😀😀😀").ids

    def test_prompt_is_not_cut(self) -> None:
        kind = text(max_characters=3, max_length=64, prompt="query: ")
        assert kind.decode("abcdef").ids == kind.decode("abc").ids

    def test_file_over_the_limit_is_cut(self, tmp_path: Path) -> None:
        path = tmp_path / "long.txt"
        path.write_text("a" * 400)
        kind = text(Limits(bytes=500), max_characters=100)
        for value in (path, path.read_bytes()):
            assert kind.decode(value).original_length == 102

    def test_list_of_one_text_is_that_text(self) -> None:
        assert text().decode(["seven"]) == text().decode("seven")


class TestInvalidText:
    @pytest.mark.parametrize(
        ("value", "code", "message"),
        [
            (b"a" * 501, "too_large", "limit of 500 bytes"),
            (b"", "unreadable", "empty (0 bytes)"),
            ("", "unreadable", "no tokens"),
            (" \n\t\u3000", "unreadable", "no tokens"),
            (b"  \n", "unreadable", "no tokens"),
            (b"caf\xe9", "unreadable", "not UTF-8"),
            ("seven".encode("utf-16"), "unreadable", "not UTF-8"),
            ("\ud83d", "unreadable", "not valid Unicode"),
            (Path("no/such.txt"), "unreadable", "no such file"),
            (7, "unreadable", "expected text, got int"),
            (["seven", "eight"], "unreadable", "expected text, got list"),
            (np.zeros(3), "unreadable", "expected text, got ndarray"),
            (io.StringIO("seven"), "unreadable", "open binary file, got StringIO"),
        ],
    )
    def test_invalid_text_is_rejected(self, value: Any, code: str, message: str) -> None:
        error = decode_error(text(Limits(characters=100, bytes=500)), value)
        assert error.code == code
        assert message in error.message

    @pytest.mark.parametrize("value", [None, "", "  ", "\n\t", "\u3000"])
    def test_blank_text_is_absent(self, value: str | None) -> None:
        assert is_absent(value)

    @pytest.mark.parametrize("value", ["\0", "\u200b", "0", "null"])
    def test_other_text_is_present(self, value: str) -> None:
        assert not is_absent(value)
        assert len(tokens(value)) > 2

    def test_text_without_tokens_is_rejected(self) -> None:
        words = tokenizers.Tokenizer(models.WordLevel({"seven": 0}, unk_token="seven"))
        words.normalizer = tokenizers.normalizers.Replace("!", "")
        kind = Text("words", {}, {"tokenizer.json": words.to_str().encode()})
        assert decode_error(kind, "!!").message == "the text has no tokens"

    @pytest.mark.parametrize(
        ("assets", "message"),
        [
            ({}, "needs words.tokenizer.json"),
            ({"tokenizer.json": b"{}"}, "cannot be read"),
            ({"tokenizer.json": b"\xff"}, "cannot be read"),
        ],
    )
    def test_invalid_tokenizer_is_a_bundle_error(
        self, assets: dict[str, bytes], message: str
    ) -> None:
        with pytest.raises(BundleError, match=message):
            Text("words", {}, assets)

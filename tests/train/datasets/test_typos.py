from __future__ import annotations

import numpy as np
import pytest

from train.datasets import digits, typos


class TestWords:
    def test_no_word_means_two_digits(self) -> None:
        meanings: dict[str, set[int]] = {}
        for language in digits.LANGUAGES:
            for number, word in enumerate(digits.number_words(language)):
                meanings.setdefault(typos.without_accents(word).lower(), set()).add(number)
        assert {word: numbers for word, numbers in meanings.items() if len(numbers) > 1} == {}

    def test_every_letter_of_every_word_is_on_a_keyboard(self) -> None:
        words = "".join("".join(digits.number_words(language)) for language in digits.LANGUAGES)
        assert set(typos.without_accents(words)) <= set(typos.NEIGHBOURS)

    def test_neighbours_are_the_adjacent_keys(self) -> None:
        assert set(typos.NEIGHBOURS["s"]) == set("qweadzxc")
        assert set(typos.NEIGHBOURS["q"]) == set("was")

    def test_each_typo_changes_one_place(self) -> None:
        typed = [typo("drei", 1, "t") for typo in typos.TYPOS]
        assert typed == ["dtei", "dtrei", "dei", "drrei", "deri"]

    def test_without_typos_only_case_and_accents_change(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(typos, "TYPO_RATE", 0.0)
        drawn = {typos.misspell("zéro", np.random.default_rng(seed)) for seed in range(100)}
        assert drawn == {"zéro", "ZÉRO", "Zéro", "zero", "ZERO", "Zero"}

    def test_misspelling_never_empties_a_word(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(typos, "TYPO_RATE", 1.0)
        drawn = [typos.misspell("un", np.random.default_rng(seed)) for seed in range(300)]
        assert min(len(text) for text in drawn) == 1

"""Typing errors: wrong, extra, lost, doubled and swapped letters, and dropped accents."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np

TYPO_RATE = 0.38
ACCENTS_DROPPED_RATE = 0.2
CASES: tuple[Callable[[str], str], ...] = (str.lower, str.lower, str.upper, str.capitalize)
KEYBOARDS = (
    ("qwertyuiop", "asdfghjkl", "zxcvbnm"),
    ("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),
)


def misspell(word: str, rng: np.random.Generator) -> str:
    """Return the word with random typing errors and capitals; never an empty text."""
    if rng.random() < ACCENTS_DROPPED_RATE:
        word = without_accents(word)
    for _ in range(rng.binomial(len(word), TYPO_RATE)):
        at = int(rng.integers(len(word)))
        near = NEIGHBOURS[without_accents(word[at])]
        word = TYPOS[rng.integers(len(TYPOS))](word, at, near[rng.integers(len(near))]) or word
    return CASES[rng.integers(len(CASES))](word)


# Functions of a word, a position and a neighbour of that letter on the keyboard: a wrong letter, an
# extra letter, a lost letter, a doubled letter, and two swapped letters.
TYPOS: tuple[Callable[[str, int, str], str], ...] = (
    lambda word, at, near: word[:at] + near + word[at + 1 :],
    lambda word, at, near: word[:at] + near + word[at:],
    lambda word, at, _near: word[:at] + word[at + 1 :],
    lambda word, at, _near: word[:at] + word[at] + word[at:],
    lambda word, at, _near: word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
)


def _neighbours(keyboard: tuple[str, ...]) -> dict[str, str]:
    keys = {(r, c): key for r, row in enumerate(keyboard) for c, key in enumerate(row)}
    around = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]
    return {
        key: "".join(keys.get((row + r, column + c), "") for r, c in around)
        for (row, column), key in keys.items()
    }


NEIGHBOURS = {key: near for keys in KEYBOARDS for key, near in _neighbours(keys).items()}


def without_accents(word: str) -> str:
    """Return the word without its accents."""
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))

"""Samples of one bucket are spread over graph calls of limited size on the CPU."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from dimml.modalities import Arrays
from dimml.modalities.image import Image
from tests.dimml.modalities.test_text import text


def tokens(*lengths: int) -> list[Arrays]:
    return [
        {name: np.ones(length, np.int64) for name in ("input_ids", "attention_mask")}
        for length in lengths
    ]


def test_texts_of_about_equal_length_share_a_call() -> None:
    kind = text(max_length=512)
    calls = kind.cpu_calls(tokens(500, 8, 480, 9, 7))
    assert calls == [[4, 1, 3], [2, 0]]


def test_no_call_is_over_the_limit_with_its_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 256, 200).tolist()
    kind = text()
    calls = kind.cpu_calls(tokens(*lengths))
    assert sorted(chain.from_iterable(calls)) == list(range(200))
    sizes = [len(call) * max(lengths[row] for row in call) for call in calls]
    assert max(sizes) <= kind.cpu_call_size
    assert len(calls) < 40


def test_text_longer_than_a_call_is_alone() -> None:
    kind = text(max_length=8192)
    assert kind.cpu_calls(tokens(3000, 3000, 2)) == [[2], [0], [1]]


def test_texts_that_are_padded_to_the_maximum_count_as_long_as_that() -> None:
    kind = text(max_length=512, pad_to_max=True)
    assert kind.cpu_calls(tokens(3, 4, 5)) == [[0, 1], [2]]


@pytest.mark.parametrize(("side", "rows"), [(224, 1), (32, 52)])
def test_large_images_are_computed_in_smaller_calls(side: int, rows: int) -> None:
    kind = Image("photo", {"size": [side, side]})
    pixels = {"pixels": np.zeros((3, side, side), np.float32)}
    assert [len(call) for call in kind.cpu_calls([pixels] * rows)] == [rows]
    assert len(kind.cpu_calls([pixels] * (rows + 1))) == 2

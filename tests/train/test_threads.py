from __future__ import annotations

from collections.abc import Iterator

from train.threads import in_threads


def test_items_are_read_as_their_turn_comes() -> None:
    read = []

    def items() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    results = in_threads(lambda number: -number, items(), ahead=4)
    assert [next(results) for _ in range(10)] == [-number for number in range(10)]
    assert len(read) <= 15
    assert list(results) == [-number for number in range(10, 100)]

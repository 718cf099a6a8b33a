from typing import Any

import pytest

from train.compare.statistics import mean_and_deviation, paired
from train.metrics import curve_area


def test_deviation_is_that_of_a_sample() -> None:
    found = mean_and_deviation([0.8, 0.9, None, 1.0])
    assert found == pytest.approx({"mean": 0.9, "std": 0.1, "count": 3})


def test_single_value_has_no_deviation() -> None:
    assert mean_and_deviation([0.8]) == {"mean": 0.8, "std": None, "count": 1}
    assert mean_and_deviation([None]) == {"mean": None, "std": None, "count": 0}


def test_paired_interval_is_students_t() -> None:
    # Differences 0.01, 0.02, 0.03: mean 0.02, s 0.01; t(0.975, 2) = 4.302653 of any table.
    found = paired({0: 0.51, 1: 0.62, 2: 0.73}, {0: 0.50, 1: 0.60, 2: 0.70})
    half = 4.302653 * 0.01 / 3**0.5
    assert found is not None
    assert found.pop("seeds") == [0, 1, 2]
    assert found == pytest.approx({"mean": 0.02, "low": 0.02 - half, "high": 0.02 + half})


def test_only_common_seeds_are_paired() -> None:
    found = paired({0: 0.5, 1: 0.7, 3: 0.9, 4: None}, {1: 0.6, 2: 0.1, 4: 0.2, 3: None})
    assert found is not None
    assert found["seeds"] == [1]
    assert found["mean"] == pytest.approx(0.1)
    assert found["low"] is found["high"] is None


def test_no_common_seed_gives_no_difference() -> None:
    assert paired({0: 0.5}, {1: 0.5}) is None


def test_curve_area_is_the_mean_height() -> None:
    # 0.1 * (1.0 + 0.8) / 2 + 0.4 * (0.8 + 0.4) / 2 = 0.33, over 0.5.
    assert curve_area({0.5: 0.4, 0.0: 1.0, 0.1: 0.8}) == pytest.approx(0.66)


@pytest.mark.parametrize("points", [{}, {0.0: 0.9}, {0.0: 0.9, 0.5: None}])
def test_incomplete_curve_has_no_area(points: dict[float, Any]) -> None:
    assert curve_area(points) is None

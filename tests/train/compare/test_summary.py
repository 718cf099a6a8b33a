import json
from pathlib import Path
from typing import Any

import pytest

from dimml.errors import UsageError
from train.compare.statistics import curve_area, mean_and_deviation, paired
from train.compare.summary import MEASURES, summarise
from train.metrics import expected_ece, pooled_reliability

# Names of a user's own, in an order that is not the alphabet's.
SUBSETS = ("rear", "front", "rear+front")


def result(method: str, seed: int, **changes: Any) -> dict[str, Any]:
    """A result as `dimml compare` writes it: accuracies 0.6, 0.7, 0.9 where nothing is said."""
    accuracies = changes.pop("accuracies", (0.6, 0.7, 0.9))
    figures = {"nll": 0.5, "ece": 0.02, "risk_coverage_area": 0.03}
    sets = {"set_coverage": 0.91, "set_size": 1.2}
    bins = {"confidence": [None, 0.8], "accuracy": [None, 0.75], "count": [0, 100]}
    return {
        "method": method,
        "seed": seed,
        "seconds": 60.0,
        "epochs": 12,
        "hyperparameters": {"rate": 0.001},
        "machine": {"cores": 2},
        "subsets": {
            name: {"samples": 100, "accuracy": accuracy, **figures, **sets}
            for name, accuracy in zip(SUBSETS, accuracies, strict=True)
        },
        "missing": {
            rate: {"accuracy": accuracy, "nll": 0.5, "ece": 0.02}
            for rate, accuracy in (("0.0", 0.9), ("0.1", 0.88), ("0.5", 0.8))
        },
        "corruption": {
            "rear": {
                "fog": {
                    level: {"accuracy": accuracy, "nll": 0.6, "ece": 0.03, "weight": weight}
                    for level, accuracy, weight in (("1", 0.81, 0.4), ("2", 0.72, 0.2))
                }
            }
        },
        "reliability": dict.fromkeys(SUBSETS, bins),
        "duc": None,
        **changes,
    }


def write(out: Path, *results: dict[str, Any]) -> Path:
    for one in results:
        path = out / "results" / one["method"] / f"seed-{one['seed']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one))
    return out


class TestEstimates:
    def test_the_deviation_has_one_less_than_the_count_in_its_denominator(self) -> None:
        found = mean_and_deviation([0.8, 0.9, None, 1.0])
        assert found == pytest.approx({"mean": 0.9, "std": 0.1, "count": 3})

    def test_one_value_has_no_deviation_and_none_no_mean(self) -> None:
        assert mean_and_deviation([0.8]) == {"mean": 0.8, "std": None, "count": 1}
        assert mean_and_deviation([None]) == {"mean": None, "std": None, "count": 0}

    def test_a_paired_interval_is_students(self) -> None:
        # Differences 0.01, 0.02, 0.03: mean 0.02, s 0.01; t(0.975, 2) = 4.302653 of any table.
        found = paired({0: 0.51, 1: 0.62, 2: 0.73}, {0: 0.50, 1: 0.60, 2: 0.70})
        half = 4.302653 * 0.01 / 3**0.5
        assert found is not None
        assert found.pop("seeds") == [0, 1, 2]
        assert found == pytest.approx({"mean": 0.02, "low": 0.02 - half, "high": 0.02 + half})

    def test_only_common_seeds_are_paired(self) -> None:
        found = paired({0: 0.5, 1: 0.7, 3: 0.9, 4: None}, {1: 0.6, 2: 0.1, 4: 0.2, 3: None})
        assert found is not None
        assert found["seeds"] == [1]
        assert found["mean"] == pytest.approx(0.1)
        assert found["low"] is found["high"] is None

    def test_without_a_common_seed_there_is_no_difference(self) -> None:
        assert paired({0: 0.5}, {1: 0.5}) is None

    def test_the_area_is_by_trapezoids_and_divided_by_the_range(self) -> None:
        # 0.1 * (1.0 + 0.8) / 2 + 0.4 * (0.8 + 0.4) / 2 = 0.33, over 0.5.
        assert curve_area({0.5: 0.4, 0.0: 1.0, 0.1: 0.8}) == pytest.approx(0.66)

    @pytest.mark.parametrize("points", [{}, {0.0: 0.9}, {0.0: 0.9, 0.5: None}])
    def test_a_curve_that_is_not_whole_has_no_area(self, points: dict[float, Any]) -> None:
        assert curve_area(points) is None

    def test_perfect_calibration_measures_the_mean_deviation_of_a_binomial(self) -> None:
        # One bin: E|k/n - p| = sqrt(2 p (1 - p) / (pi n)) of a normal, 0.0319 for n = 100, p = 0.8.
        found = expected_ece({"confidence": [None, 0.8], "count": [0, 100]})
        assert found == pytest.approx(0.0319, abs=0.004)
        assert found == expected_ece({"confidence": [None, 0.8], "count": [0, 100]})

    def test_more_samples_measure_a_smaller_ece(self) -> None:
        few, many = (expected_ece({"confidence": [0.5], "count": [n]}) for n in (50, 5000))
        assert few is not None
        assert many is not None
        assert many == pytest.approx(few / 10, rel=0.2)

    @pytest.mark.parametrize("table", [{}, {"confidence": [None], "count": [0]}])
    def test_without_samples_there_is_no_expected_ece(self, table: dict[str, Any]) -> None:
        assert expected_ece(table) is None

    def test_bins_are_pooled_by_their_counts(self) -> None:
        first = {"confidence": [None, 0.8], "accuracy": [None, 0.6], "count": [0, 10]}
        second = {"confidence": [0.1, 0.9], "accuracy": [0.0, 1.0], "count": [5, 30]}
        found = pooled_reliability([first, second])
        assert found["count"] == [5, 40]
        assert found["confidence"] == pytest.approx([0.1, 0.875])
        assert found["accuracy"] == pytest.approx([0.0, 0.9])


class TestMeasures:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("full", 0.9),
            ("mean", 2.2 / 3),
            ("worst", 0.6),
            # (0.1 * 0.89 + 0.4 * 0.84) / 0.5
            ("missing_area", 0.85),
            # (0.81 + 0.72) / 2 / 0.9
            ("robustness", 0.85),
            ("ece_full", 0.02),
            ("nll_mean", 0.5),
            ("risk_mean", 0.03),
        ],
    )
    def test_are_as_defined(self, tmp_path: Path, name: str, value: float) -> None:
        document = summarise(write(tmp_path, result("dimml", 0)))
        found = document["methods"]["dimml"]["measures"][name]
        assert found == {"mean": pytest.approx(value), "std": None, "count": 1}

    def test_the_worst_subset_is_taken_per_seed(self, tmp_path: Path) -> None:
        one = result("dimml", 0, accuracies=(0.5, 0.7, 0.9))
        two = result("dimml", 1, accuracies=(0.8, 0.6, 0.9))
        document = summarise(write(tmp_path, one, two))
        worst = document["methods"]["dimml"]["measures"]["worst"]
        assert worst == {"mean": pytest.approx(0.55), "std": pytest.approx(0.005**0.5), "count": 2}

    def test_what_a_run_lacks_is_not_averaged_over_the_rest(self, tmp_path: Path) -> None:
        partial = result("joint", 0)
        partial["subsets"]["rear"]["accuracy"] = float("nan")
        partial["missing"]["0.5"] = None
        document = summarise(write(tmp_path, result("dimml", 0), partial))
        measures = document["methods"]["joint"]["measures"]
        assert measures["full"]["mean"] == 0.9
        for name in ("mean", "worst", "missing_area"):
            assert measures[name]["mean"] is None
            assert document["differences"]["joint"]["measures"][name] is None
        gap = "; ".join(MEASURES[name].title for name in ("mean", "worst", "missing_area"))
        assert document["gaps"] == [f"seed 0 of joint lacks: {gap}"]


class TestSummarise:
    def test_the_subset_of_most_modalities_is_the_full_input(self, tmp_path: Path) -> None:
        document = summarise(write(tmp_path, result("dimml", 0)))
        assert document["full"] == "rear+front"
        assert document["singles"] == ["rear", "front"]
        assert document["samples"] == dict.fromkeys(SUBSETS, 100)
        assert document["rates"] == ["0.0", "0.1", "0.5"]

    def test_differences_are_paired_by_seed(self, tmp_path: Path) -> None:
        ours = [result("dimml", s, accuracies=(0.6, 0.7, a)) for s, a in ((0, 0.91), (1, 0.95))]
        theirs = [result("joint", s, accuracies=(0.6, 0.7, a)) for s, a in ((1, 0.92), (2, 0.1))]
        document = summarise(write(tmp_path, *ours, *theirs))
        found = document["differences"]["joint"]["measures"]["full"]
        assert found["seeds"] == [1]
        assert found["mean"] == pytest.approx(0.03)
        assert document["gaps"][:2] == [
            "there is no result of dimml for seed 2",
            "there is no result of joint for seed 0",
        ]

    def test_methods_are_in_the_order_of_their_mean_dimml_first(self, tmp_path: Path) -> None:
        made = (("alpha", 0.1), ("beta", 0.8), ("dimml", 0.2))
        results = [result(name, 0, accuracies=(low, 0.7, 0.9)) for name, low in made]
        assert list(summarise(write(tmp_path, *results))["methods"]) == ["dimml", "beta", "alpha"]

    def test_without_dimml_there_are_no_differences(self, tmp_path: Path) -> None:
        document = summarise(write(tmp_path, result("joint", 0), result("mla", 0)))
        assert document["differences"] == {}
        assert "there is no result of dimml, so" in document["gaps"][0]

    def test_dimension_sets_and_sets_of_labels_are_averaged(self, tmp_path: Path) -> None:
        sizes = [{"effective": {"rear": n}, "selected": {"rear->front": n}} for n in (10, 20)]
        results = [result("dimml", seed, duc=duc) for seed, duc in enumerate(sizes)]
        found = summarise(write(tmp_path, *results))["methods"]["dimml"]
        assert found["duc"]["selected"]["rear->front"]["mean"] == 15
        assert found["subsets"]["rear"]["set_size"]["mean"] == pytest.approx(1.2)
        assert found["subsets"]["rear"]["set_coverage"]["std"] == pytest.approx(0.0)

    def test_the_document_is_json_without_nan(self, tmp_path: Path) -> None:
        odd = result("dimml", 0, seconds=float("inf"), hyperparameters=None, machine=None)
        odd["subsets"]["rear"] |= {"nll": float("nan"), "ece": None}
        odd["corruption"]["rear"]["fog"] = None
        odd["reliability"] = None
        document = summarise(write(tmp_path, odd))
        assert json.loads(json.dumps(document, allow_nan=False)) == document

    def test_equal_differences_have_no_interval(self, tmp_path: Path) -> None:
        made = ((name, seed) for name in ("dimml", "joint") for seed in range(3))
        document = summarise(write(tmp_path, *(result(*one) for one in made)))
        found = document["differences"]["joint"]["subsets"]["front"]
        assert (found["mean"], found["low"], found["high"]) == (0.0, None, None)


class TestRefusals:
    def test_a_folder_without_results(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"no <method>/seed-<n>\.json; run `dimml compare"):
            summarise(tmp_path)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            (
                {"subsets": {"audio": {"accuracy": "high"}}},
                "subsets.audio.accuracy: expected a number",
            ),
            ({"missing": {"abc": {}}}, "missing: 'abc' is not a number"),
            ({"seconds": []}, "seconds: expected a number"),
        ],
    )
    def test_a_figure_that_is_no_number(
        self, tmp_path: Path, changes: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(UsageError, match=rf"seed-0\.json: {said}.*; remove it and run"):
            summarise(write(tmp_path, result("joint", 0, **changes)))

    @pytest.mark.parametrize("content", ["", "{", "[1]", '{"method": "joint", "seed": "0"}'])
    def test_a_file_that_is_no_result_is_named(self, tmp_path: Path, content: str) -> None:
        write(tmp_path, result("dimml", 0))
        path = tmp_path / "results" / "dimml" / "seed-1.json"
        path.write_text(content)
        with pytest.raises(UsageError, match=r"seed-1\.json: .*remove it"):
            summarise(tmp_path)

    def test_two_results_of_one_method_and_seed(self, tmp_path: Path) -> None:
        write(tmp_path, result("dimml", 0))
        copy = tmp_path / "results" / "dimml" / "seed-1.json"
        copy.write_text(json.dumps(result("dimml", 0)))
        with pytest.raises(UsageError, match=r"seed-1\.json: a second result of dimml, seed 0"):
            summarise(tmp_path)

    def test_results_that_measured_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no result measured a subset"):
            summarise(write(tmp_path, {"method": "dimml", "seed": 0, "subsets": None}))

import json
from pathlib import Path
from typing import Any

import pytest

from dimml.errors import UsageError
from train.compare.summary import MEASURES, summarise

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
    def test_measures_follow_their_definitions(
        self, tmp_path: Path, name: str, value: float
    ) -> None:
        document = summarise(write(tmp_path, result("dimml", 0)))
        found = document["methods"]["dimml"]["measures"][name]
        assert found == {"mean": pytest.approx(value), "std": None, "count": 1}

    def test_worst_subset_is_chosen_per_seed(self, tmp_path: Path) -> None:
        one = result("dimml", 0, accuracies=(0.5, 0.7, 0.9))
        two = result("dimml", 1, accuracies=(0.8, 0.6, 0.9))
        document = summarise(write(tmp_path, one, two))
        worst = document["methods"]["dimml"]["measures"]["worst"]
        assert worst == {"mean": pytest.approx(0.55), "std": pytest.approx(0.005**0.5), "count": 2}

    def test_incomplete_run_has_no_mean(self, tmp_path: Path) -> None:
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
    def test_largest_subset_is_the_full_input(self, tmp_path: Path) -> None:
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

    def test_methods_are_sorted_by_mean_with_dimml_first(self, tmp_path: Path) -> None:
        made = (("alpha", 0.1), ("beta", 0.8), ("dimml", 0.2))
        results = [result(name, 0, accuracies=(low, 0.7, 0.9)) for name, low in made]
        assert list(summarise(write(tmp_path, *results))["methods"]) == ["dimml", "beta", "alpha"]

    def test_comparison_without_dimml_has_no_differences(self, tmp_path: Path) -> None:
        document = summarise(write(tmp_path, result("joint", 0), result("mla", 0)))
        assert document["differences"] == {}
        assert "there is no result of dimml, so" in document["gaps"][0]

    def test_set_sizes_are_averaged_over_seeds(self, tmp_path: Path) -> None:
        sizes = [{"effective": {"rear": n}, "selected": {"rear->front": n}} for n in (10, 20)]
        results = [result("dimml", seed, duc=duc) for seed, duc in enumerate(sizes)]
        found = summarise(write(tmp_path, *results))["methods"]["dimml"]
        assert found["duc"]["selected"]["rear->front"]["mean"] == 15
        assert found["subsets"]["rear"]["set_size"]["mean"] == pytest.approx(1.2)
        assert found["subsets"]["rear"]["set_coverage"]["std"] == pytest.approx(0.0)

    def test_document_is_json_without_nan(self, tmp_path: Path) -> None:
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
    def test_folder_without_results_is_rejected(self, tmp_path: Path) -> None:
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
    def test_figure_that_is_not_a_number_is_rejected(
        self, tmp_path: Path, changes: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(UsageError, match=rf"seed-0\.json: {said}.*; remove it and run"):
            summarise(write(tmp_path, result("joint", 0, **changes)))

    @pytest.mark.parametrize("content", ["", "{", "[1]", '{"method": "joint", "seed": "0"}'])
    def test_invalid_result_file_is_named(self, tmp_path: Path, content: str) -> None:
        write(tmp_path, result("dimml", 0))
        path = tmp_path / "results" / "dimml" / "seed-1.json"
        path.write_text(content)
        with pytest.raises(UsageError, match=r"seed-1\.json: .*remove it"):
            summarise(tmp_path)

    def test_duplicate_result_is_rejected(self, tmp_path: Path) -> None:
        write(tmp_path, result("dimml", 0))
        copy = tmp_path / "results" / "dimml" / "seed-1.json"
        copy.write_text(json.dumps(result("dimml", 0)))
        with pytest.raises(UsageError, match=r"seed-1\.json: a second result of dimml, seed 0"):
            summarise(tmp_path)

    def test_results_without_subsets_are_rejected(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no result measured a subset"):
            summarise(write(tmp_path, {"method": "dimml", "seed": 0, "subsets": None}))

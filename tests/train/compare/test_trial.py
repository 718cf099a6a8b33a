"""The result files of a comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.compare.report import write_report


def result(folder: Path, name: str, seed: int = 0) -> Any:
    return json.loads((folder / "compare" / "results" / name / f"seed-{seed}.json").read_text())


class TestResults:
    def test_each_row_has_a_result_file(self, finished: Path) -> None:
        places = {path.parent.name for path in finished.rglob("seed-0.json")}
        fusions = ("paper", "average", "certainty", "pooled", "sum", "both-heads")
        assert places == {
            *("dimml", "best-unimodal", "logit-average", "logit-sum", "ume", "ume+fusion"),
            *(f"dimml+{name}" for name in fusions),
        }
        assert not (finished / "compare" / "work").exists()
        assert set(write_report(finished / "compare")["methods"]) == places

    def test_result_holds_every_measurement(self, finished: Path) -> None:
        found = result(finished, "dimml")
        assert (found["method"], found["seed"], found["epochs"]) == ("dimml", 0, 1)
        assert list(found["subsets"]) == ["title", "note", "title+note"]
        assert set(found["subsets"]["note"]) == {
            *("samples", "accuracy", "nll", "ece"),
            *("risk_coverage_area", "set_coverage", "set_size", "set_nominal", "set_rows"),
            *("high_set_coverage", "high_set_size", "high_set_nominal"),
        }
        assert set(found["validation"]) == {"accuracy", "nll"}
        assert list(found["missing"]) == ["0.0", "0.1", "0.3", "0.5", "0.7"]
        assert set(found["corruption"]["title"]) == {"characters", "words"}
        noisy = found["corruption"]["title"]["words"]["3"]
        assert set(noisy) == {"accuracy", "nll", "ece", "weight", "confidence"}
        assert 0 < noisy["weight"] < 1
        assert set(found["reliability"]) == set(found["subsets"])
        assert set(found["duc"]["selected"]) == {"title->note", "note->title"}
        assert result(finished, "ume")["duc"] is None

    def test_samples_count_the_rows_that_have_the_subset(self, finished: Path) -> None:
        samples = {n: s["samples"] for n, s in result(finished, "ume")["subsets"].items()}
        titled = sum(number % 7 != 0 for number in range(3, 160, 4))
        assert samples == {"title": titled, "note": 40, "title+note": titled}

    def test_reference_row_comes_from_the_same_training(self, finished: Path) -> None:
        one, two = (result(finished, name) for name in ("ume", "ume+fusion"))
        assert one["hyperparameters"] == two["hyperparameters"]
        assert one["subsets"]["note"] == two["subsets"]["note"]
        assert one["missing"].keys() == two["missing"].keys()

    def test_result_of_dimml_has_its_errors_with_inputs(self, finished: Path) -> None:
        model = result(finished, "dimml")["model"]
        counts = model["confusion"]["counts"]
        assert model["confusion"]["labels"] == ["blue", "red"]
        assert sum(map(sum, counts)) == 40
        assert len(model["examples"]) == min(12, model["confusion"]["errors"])
        for example in model["examples"]:
            assert example["label"] != example["predicted"]
            assert example["inputs"]["note"]["text"] == f"it is {example['label']}"
            assert 0 <= example["inputs"]["note"]["weight"] <= 1
        assert "model" not in result(finished, "ume")

"""Evaluation of every subset, compared with figures that this file computes by definition."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from dimml import Predictor
from dimml.errors import ManifestError
from dimml.samples import subset_name, subsets
from train.cli import evaluate
from train.evaluate import evaluate_bundle, measure, subset_table

NAMES = ("front", "rear", "note")
LABELS = ("zero", "one", "two", "three")
WORDS = ("a", "seven", "one two three", "number b c d")


def figures_by_definition(
    probabilities: Sequence[Sequence[float]], labels: Sequence[int]
) -> dict[str, float]:
    """Return the four figures by their definitions."""
    p, y = np.asarray(probabilities), np.asarray(labels)
    answers, confidence = p.argmax(axis=1), p.max(axis=1)
    right = answers == y
    f1 = []
    for label in sorted(set(answers) | set(y)):
        hits = (right & (y == label)).sum()
        f1.append(2 * hits / ((answers == label).sum() + (y == label).sum()))
    bins = np.minimum(np.floor(confidence * 15), 14)
    return {
        "samples": len(y),
        "accuracy": right.mean(),
        "macro_f1": np.mean(f1),
        "nll": -np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean(),
        "ece": sum(
            abs(right[bins == b].sum() - confidence[bins == b].sum()) / len(y) for b in set(bins)
        ),
    }


class TestMeasure:
    @pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
    @pytest.mark.parametrize("samples", [1, 7, 400])
    def test_figures_follow_their_definitions(self, samples: int, sharpness: float) -> None:
        random = np.random.default_rng(samples)
        scores = np.exp(sharpness * random.standard_normal((samples, 6)))
        probabilities = (scores / scores.sum(axis=1, keepdims=True)).tolist()
        labels = random.integers(0, 6, samples).tolist()
        measured = measure(np.array(probabilities, np.float32), np.array(labels))
        assert measured == pytest.approx(figures_by_definition(probabilities, labels), abs=1e-5)

    def test_certain_answer_falls_into_the_last_of_fifteen_bins(self) -> None:
        # In one bin: one right of two, 0.975 sure. In two: (|0 - 1| + |1 - 0.95|) / 2 = 0.525.
        measured = measure(np.array([[1.0, 0.0], [0.95, 0.05]], np.float32), np.array([1, 0]))
        assert measured["ece"] == pytest.approx(0.475, abs=1e-6)

    def test_certain_wrong_answer_has_a_finite_loss(self) -> None:
        measured = measure(np.array([[1.0, 0.0]], np.float32), np.array([1]))
        assert measured["nll"] == pytest.approx(-np.log(1e-12), rel=1e-4)

    def test_macro_f1_leaves_out_a_class_that_does_not_occur(self) -> None:
        probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], np.float32)
        assert measure(probabilities, np.arange(2))["macro_f1"] == 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 80 test rows, most with gaps and a few with broken files, and one train row."""
    folder = tmp_path_factory.mktemp("evaluated")
    random = np.random.default_rng(0)
    (folder / "broken.png").write_bytes(b"junk")
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "label", *NAMES])
        for number in range(80):
            cells = []
            for side in ("front", "rear"):
                name = f"{side}{number}.png"
                pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
                PIL.Image.fromarray(pixels).save(folder / name)
                cells.append(name if random.random() < 0.6 else "")
            cells.append(WORDS[number % 4])
            if number % 20 == 0:
                cells[0] = "broken.png"
            # No row has the last label.
            writer.writerow([number, "test", LABELS[number % 3], *cells])
        writer.writerow([80, "train", "zero", "", "", "seven"])
    return folder / "data.csv"


@pytest.fixture(scope="module")
def report(free_names_bundle: Path, data: Path) -> dict[str, Any]:
    return evaluate_bundle(free_names_bundle, data, "test")


@pytest.fixture(scope="module")
def rows(data: Path) -> list[dict[str, str]]:
    """Return the test rows with absolute paths, without empty and broken cells."""
    with data.open(newline="") as file:
        measured = [row for row in csv.DictReader(file) if row["split"] == "test"]
    return [
        {
            key: str(data.parent / value) if key in ("front", "rear") else value
            for key, value in row.items()
            if value not in ("", "broken.png")
        }
        for row in measured
    ]


class TestEvaluateBundle:
    @pytest.mark.parametrize("subset", list(subsets(NAMES)), ids=subset_name)
    def test_subset_is_measured_on_rows_that_have_it_with_the_rest_masked(
        self,
        free_names_bundle: Path,
        report: dict[str, Any],
        rows: list[dict[str, str]],
        subset: tuple[str, ...],
    ) -> None:
        kept = [row for row in rows if set(subset) <= set(row)]
        assert len(kept) > 5
        predictor = Predictor.load(free_names_bundle, "cpu")
        answers = [predictor.predict({name: row[name] for name in subset}) for row in kept]
        probabilities = [list(answer.probabilities.values()) for answer in answers]
        expected = figures_by_definition(
            probabilities, [LABELS.index(row["label"]) for row in kept]
        )
        assert report["subsets"][subset_name(subset)] == pytest.approx(expected, abs=1e-4)

    def test_report_has_the_keys_of_evaluation_json(
        self, free_names_bundle: Path, report: dict[str, Any]
    ) -> None:
        assert (report["split"], report["samples"]) == ("test", 80)
        assert report["bundle"] == Predictor.load(free_names_bundle, "cpu").bundle.id
        assert list(report["subsets"]) == [subset_name(subset) for subset in subsets(NAMES)]
        for row in report["subsets"].values():
            assert list(row) == ["samples", "accuracy", "macro_f1", "nll", "ece"]
        counts = [row["samples"] for row in report["subsets"].values()]
        assert counts[2] == 80
        assert max(counts[:2]) < 80
        assert counts[-1] < min(counts[:2])

    def test_unreadable_cells_are_counted_and_reported(
        self, free_names_bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        report = evaluate_bundle(free_names_bundle, data, "test")
        stderr = capsys.readouterr().err
        assert report["unreadable"] == 4
        assert "80 samples, 4 unreadable cells" in subset_table(report)
        assert (
            "test: unreadable cells that count as absent: 4; the first is in row 0: front: "
            in stderr
        )
        assert "evaluating test: 80 in" in stderr

    def test_split_without_a_readable_row_is_rejected_and_nothing_is_written(
        self, free_names_bundle: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "data.csv"
        path.write_text("split,label,front,rear\ntest,zero,no.png,no.png\ntest,one,no.png,\n")
        before = {file: file.stat().st_mtime_ns for file in free_names_bundle.iterdir()}
        with pytest.raises(ManifestError, match=r"no row of the test split can be read; the first"):
            evaluate(free_names_bundle, path)
        assert {file: file.stat().st_mtime_ns for file in free_names_bundle.iterdir()} == before

    def test_subset_that_no_row_has_is_left_out(self, free_names_bundle: Path, data: Path) -> None:
        assert list(evaluate_bundle(free_names_bundle, data, "train")["subsets"]) == ["note"]

    def test_label_that_the_bundle_does_not_know_is_rejected(
        self, free_names_bundle: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "data.csv"
        path.write_text("id,split,label,note\na,test,zero,seven\nb,test,nine,seven\n")
        with pytest.raises(ManifestError, match=r"nine \(row b\); it knows zero, one, two, three$"):
            evaluate_bundle(free_names_bundle, path, "test")

    def test_modality_without_a_column_is_reported(
        self, free_names_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "data.csv"
        path.write_text("split,label,note,fron\ntest,zero,seven,a.png\n")
        evaluate_bundle(free_names_bundle, path, "test")
        stderr = capsys.readouterr().err
        assert "warning: " in stderr
        assert "no column for front (did you mean fron?), rear; its columns are" in stderr

    def test_split_without_rows_is_rejected(self, free_names_bundle: Path, data: Path) -> None:
        with pytest.raises(ManifestError, match="no labelled row in its validation split"):
            evaluate_bundle(free_names_bundle, data, "validation")


def test_table_names_subsets_without_a_certified_coverage(report: dict[str, Any]) -> None:
    sets = {"coverage": 0.99, "uncertified": {"front": 12}}
    assert "Not certified" not in subset_table(report)
    assert subset_table({**report, "prediction_sets": sets}).endswith("or lower `coverage`.")
    assert "front (12 rows): a coverage of 0.99" in subset_table(
        {**report, "prediction_sets": sets}
    )

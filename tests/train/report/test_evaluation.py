"""The report of `dimml evaluate`: its figures by definition, and pages of difficult data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from itertools import compress, product
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile

from dimml import Predictor
from dimml.bundle import Bundle
from dimml.errors import UsageError
from export.package import _copy_bundle
from tests.conftest import LABELS
from tests.train.report.pages import Loads, page_text, parse_page
from train.cli import evaluate
from train.data.corruptions import CORRUPTIONS
from train.evaluate import Evaluation, answer_split
from train.report.__main__ import main
from train.report.confusion import count_confusions
from train.report.corruption import MAX_ROWS, choose_rows
from train.report.evaluation import (
    MISSING_RATES,
    evaluation_page,
    missing_accuracy,
    read_document,
    report_document,
)

MARKUP = "<script>alert(1)</script> & seven"
KINDS = ("audio", "image", "text")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 30 rows without ids, some with empty cells."""
    folder = tmp_path_factory.mktemp("reported")
    random = np.random.default_rng(0)
    lines = ["split,label,audio,image,text"]
    for number in range(30):
        soundfile.write(folder / f"{number}.wav", 0.1 * random.standard_normal(4000), 16_000)
        pixels = random.integers(0, 256, (40, 40, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
        cells = [f"{number}.wav", f"{number}.png", MARKUP]
        if number % 3 == 0:
            cells[number // 3 % 3] = ""
        lines.append(",".join(["test", LABELS[number % 4], *cells]))
    (folder / "data.csv").write_text("\n".join(lines))
    return folder / "data.csv"


@pytest.fixture(scope="module")
def folder(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle, into which reports may be written."""
    return Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("evaluated") / "bundle"))


@pytest.fixture(scope="module")
def evaluated(folder: Path, table: Path) -> Evaluation:
    return answer_split(folder, table, "test")


@pytest.fixture(scope="module")
def document(evaluated: Evaluation) -> dict[str, Any]:
    return report_document(evaluated, evaluated.document())


@pytest.fixture(scope="module")
def page(folder: Path, table: Path) -> str:
    """The page that the command writes."""
    evaluate(folder, table)
    return (folder / "report.html").read_text()


def report_of(bundle: Path, table: Path) -> tuple[dict[str, Any], str]:
    evaluated = answer_split(bundle, table, "test")
    document = report_document(evaluated, evaluated.document())
    return document, evaluation_page(json.loads(json.dumps(document)))


def expected_accuracy(evaluated: Evaluation, rate: float) -> float:
    """Return the accuracy over every way to drop modalities, weighted by its probability."""
    answers, total = evaluated.answers, 0.0
    right: dict[tuple[str, int], bool] = {}
    for name, one in answers.subsets.items():
        for row, probabilities in zip(np.flatnonzero(one.having), one.probabilities, strict=True):
            right[name, int(row)] = probabilities.argmax() == answers.labels[row]
    for row, present in enumerate(answers.whole.present):
        names = list(compress(KINDS, present))
        for kept in product((False, True), repeat=len(names)):
            probability = np.prod([1 - rate if one else rate for one in kept])
            left = ["+".join(compress(names, kept))] if any(kept) else names
            total += probability * np.mean([right[subset, row] for subset in left])
    return total / len(answers.labels)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_missing_curve_is_the_mean_over_every_way_to_drop_modalities(
    evaluated: Evaluation, rate: float
) -> None:
    assert missing_accuracy(evaluated.answers, rate) == pytest.approx(
        expected_accuracy(evaluated, rate)
    )


class TestDocument:
    def test_missing_curve_has_every_rate(self, document: dict[str, Any]) -> None:
        [method] = document["methods"].values()
        assert list(method["missing"]) == [str(rate) for rate in MISSING_RATES]
        assert method["missing"]["0.0"]["accuracy"]["mean"] == document["summary"]["accuracy"]

    def test_clean_weight_is_that_of_predictions(
        self, document: dict[str, Any], evaluated: Evaluation
    ) -> None:
        chosen = choose_rows(evaluated.rows, KINDS)
        assert document["corruption_rows"] == len(chosen) == 20
        samples = [evaluated.rows[number].sample for number in chosen]
        predictions = [evaluated.predictor.predict(sample) for sample in samples]
        [method] = document["methods"].values()
        for name in KINDS:
            assert set(method["corruption"][name]) == set(CORRUPTIONS[name])
            for levels in method["corruption"][name].values():
                assert list(levels) == ["0", "1", "2", "3"]
                weights = [one.modalities[name].weight for one in predictions]
                assert levels["0"]["weight"]["mean"] == pytest.approx(np.mean(weights), abs=1e-4)

    def test_corruption_changes_the_weight(self, document: dict[str, Any]) -> None:
        [method] = document["methods"].values()
        levels = method["corruption"]["image"]["noise"]
        assert levels["3"]["weight"]["mean"] != levels["0"]["weight"]["mean"]

    def test_examples_are_the_most_confident_errors_of_the_predictor(
        self, document: dict[str, Any], evaluated: Evaluation
    ) -> None:
        errors = []
        for row in evaluated.rows:
            prediction = evaluated.predictor.predict(row.sample)
            if prediction.label != row.label:
                errors.append((prediction.confidence, row.id, prediction))
        errors.sort(key=lambda one: -one[0])
        shown = document["model"]["examples"]
        assert [one["id"] for one in shown] == [identifier for _, identifier, _ in errors[:12]]
        first, prediction = shown[0], errors[0][2]
        assert first["confidence"] == pytest.approx(prediction.confidence, abs=1e-4)
        for name, output in prediction.modalities.items():
            assert first["inputs"][name].get("label") == output.label
            if output.present:
                assert first["inputs"][name]["weight"] == pytest.approx(output.weight, abs=1e-4)

    def test_confusion_counts_every_readable_row(self, document: dict[str, Any]) -> None:
        assert np.sum(document["model"]["confusion"]["counts"]) == 30

    def test_document_has_no_paths_of_the_table(
        self, document: dict[str, Any], table: Path
    ) -> None:
        assert str(table.parent) not in json.dumps(document)


def test_corruption_uses_evenly_spaced_rows(evaluated: Evaluation) -> None:
    rows = [evaluated.rows[1]] * (3 * MAX_ROWS)
    chosen = choose_rows(rows, KINDS)
    assert len(chosen) == MAX_ROWS
    assert (chosen[0], chosen[-1]) == (0, 3 * MAX_ROWS - 1)


class TestPage:
    def test_page_opens_with_three_sentences(self, page: str) -> None:
        items = [item.text for item in parse_page(page).find("body/ul")]
        assert len(items) == 3
        assert items[0].startswith("tiny labels ")

    def test_page_has_every_figure_and_the_inputs(self, page: str) -> None:
        root = parse_page(page)
        assert len(list(root.iter("{http://www.w3.org/2000/svg}svg"))) == 5
        assert len(list(root.iter("section"))) == 12
        assert {"img", "audio", "blockquote"} <= Loads(page).tags

    def test_page_loads_nothing(self, page: str) -> None:
        found = Loads(page)
        assert found.loads == []
        assert not found.tags & {"script", "link", "iframe", "object", "embed", "base"}

    def test_text_of_a_sample_is_shown_as_written(self, page: str) -> None:
        assert MARKUP in page_text(page)

    def test_page_is_small_enough_to_send(self, page: str) -> None:
        assert len(page) < 4_000_000


class TestFiles:
    def test_reports_do_not_change_the_bundle(
        self, page: str, folder: Path, tiny_bundle: Path
    ) -> None:
        assert Bundle.load(folder).id == Bundle.load(tiny_bundle).id
        assert page

    def test_package_leaves_out_the_samples_of_the_report(
        self, page: str, folder: Path, tmp_path: Path
    ) -> None:
        _copy_bundle(Bundle.load(folder), tmp_path / "packed")
        packed = {path.name for path in (tmp_path / "packed").iterdir()}
        assert "evaluation.json" in packed
        assert not packed & {"report.html", "report.json"}

    def test_evaluation_json_has_figures_and_no_samples(self, page: str, folder: Path) -> None:
        document = json.loads((folder / "evaluation.json").read_text())
        assert {"split", "samples", "subsets"} <= set(document)
        assert MARKUP not in json.dumps(document)

    def test_page_is_made_again_from_its_json_alone(
        self, page: str, folder: Path, tmp_path: Path
    ) -> None:
        shutil.copy(folder / "report.json", tmp_path)
        main(tmp_path)
        assert (tmp_path / "report.html").read_text() == page

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "`dimml evaluate` writes this file"),
            ('{"format": "other"}', "is not the report of an evaluation"),
            ('{"format": "dimml-evaluation-report", "version": 99}', "has version 99"),
        ],
    )
    def test_other_json_is_rejected(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(UsageError, match=message):
            read_document(tmp_path / "report.json")


def test_modality_missing_everywhere_and_unreadable_cells_are_reported(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    lines = ["split,label,image,text", "test,zero,no.png,seven", "test,one,no.png,seven"]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    document, page = report_of(tiny_bundle, tmp_path / "data.csv")
    assert document["subsets"] == ["text"]
    assert "so nothing is known about what happens" in page_text(page)
    assert "cannot be read: " in page_text(page)
    assert "absent" in page_text(page)


def test_one_row_of_one_modality_with_labels_of_markup_is_reported(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    labels = [f"<b>label {number}</b> & $x$" for number in range(len(LABELS))]
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "labels": labels}))
    predicted = Predictor.load(bundle, "cpu").predict({"text": "seven"}).label
    wrong = labels[labels[0] == predicted]
    (tmp_path / "data.csv").write_text(f"split,label,text\ntest,{wrong},seven\n")
    _, page = report_of(bundle, tmp_path / "data.csv")
    assert f"True label {wrong} ; the answer is {predicted}" in page_text(page)
    assert "tiny labels 0 of 1 samples correctly" in page_text(page)
    assert Loads(page).loads == []


def test_page_of_a_thousand_labels_says_which_it_shows(document: dict[str, Any]) -> None:
    labels = [f"label {number}" for number in range(1000)]
    confusion = count_confusions(np.arange(1000), np.roll(np.arange(1000), 1), labels)
    model = {"confusion": confusion, "examples": []}
    text = page_text(evaluation_page({**document, "model": model, "rates": []}))
    assert "The figure has the 20 of 1000 labels that take part in the most errors." in text
    assert "The most frequent of 1000 errors:" in text


def media(document: Mapping[str, Any]) -> list[str]:
    inputs = [one for shown in document["model"]["examples"] for one in shown["inputs"].values()]
    return [url for one in inputs for url in [*one.get("images", ()), one.get("audio")] if url]


def test_inputs_beyond_the_limit_of_a_page_are_left_out(
    evaluated: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.report.examples.MAX_MEDIA_CHARACTERS", 30_000)
    document = report_document(evaluated, evaluated.document())
    assert 0 < sum(map(len, media(document))) <= 30_000
    inputs = document["model"]["examples"][-1]["inputs"]
    assert any(one["note"].startswith("left out") for one in inputs.values())
    assert inputs["text"].get("text") == MARKUP or inputs["text"]["note"] == "absent"

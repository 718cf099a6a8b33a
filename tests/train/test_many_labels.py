"""From the check to a report with two labels and with many: nothing fails, lists stay short."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from dimml.predictor import Predictor
from export.bundle import export_run
from tests.conftest import Dimml
from tests.train.compare.things import recipe_of
from train.calibration import EncodedRows
from train.check import check_data
from train.evaluate import answer_split
from train.model_card import model_card
from train.report.evaluation import report_document, write_report
from train.run import load_run, train_run

MANY = 400
TOO_MANY = 10_000


class Chain(NamedTuple):
    """What a data set with K labels became."""

    labels: int
    folder: Path

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"


def run_chain(folder: Path, labels: int) -> Chain:
    """Train and export a table in which each label has two training rows, at least 40 in all."""
    splits = {"train": max(40, 2 * labels), "validation": 120, "test": 120}
    lines = ["split,label,title,note\n"]
    for split, rows in splits.items():
        for number in range(rows):
            label = number % labels
            lines.append(f"{split},label {label:05},thing {label},it is {label} of them\n")
    (folder / "data.csv").write_text("".join(lines))
    training = {"epochs": 1, "warm_up": 0, "batch_size": max(16, min(512, labels))}
    recipe = recipe_of(folder / "data.csv", training=training)
    report = check_data(recipe)
    assert report.failure is None
    assert len(report.text()) < 5000
    train_run(recipe, folder / "run", resume=False)
    export_run(folder / "run", folder / "bundle")
    return Chain(labels, folder)


@pytest.fixture(
    scope="module",
    params=[
        MANY,
        pytest.param(2, marks=pytest.mark.slow("test_run.py has two labels, with fewer checks")),
        pytest.param(TOO_MANY, marks=pytest.mark.slow("trains on 20,000 rows")),
    ],
)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return run_chain(tmp_path_factory.mktemp("chain"), request.param)


def test_run_and_bundle_have_every_label(chain: Chain) -> None:
    run = load_run(chain.folder / "run")
    predictor = Predictor.load(chain.bundle, "cpu")
    assert len(run.labels) == chain.labels
    assert predictor.labels == run.labels
    prediction = predictor.predict({"title": "thing 1"})
    assert len(prediction.probabilities) == chain.labels
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert prediction.label == max(
        prediction.probabilities, key=prediction.probabilities.__getitem__
    )
    assert 1 <= len(prediction.prediction_set) <= chain.labels


def test_evaluation_card_and_report_stay_short(chain: Chain) -> None:
    evaluated = answer_split(chain.bundle, chain.folder / "data.csv", "test")
    document = evaluated.document()
    assert list(document["subsets"]) == ["title", "note", "title+note"]
    assert all(one["samples"] == 120 for one in document["subsets"].values())
    card = model_card(chain.bundle, document)
    assert f"one of {chain.labels} labels: label 00000, label 00001" in card
    assert len(card) < 10_000
    page = write_report(chain.folder, report_document(evaluated, document))
    assert page.stat().st_size < 1_000_000


def test_inspect_lists_a_hundred_labels_at_most(chain: Chain, dimml: Dimml) -> None:
    code, out, _ = dimml("inspect", chain.bundle)
    assert code == 0
    [line] = [line for line in out.splitlines() if line.startswith("labels: ")]
    more = f" and {chain.labels - 100:,} more" if chain.labels > 100 else "label 00001"
    assert line.endswith(more)
    assert line.count("label 0") == min(100, chain.labels)


def test_page_lists_the_first_labels_of_a_set_of_every_label() -> None:
    from serving.page.answer import render_answer

    labels = [f"label {number}" for number in range(TOO_MANY)]
    body = {
        "label": labels[0],
        "confidence": 1e-4,
        "probabilities": dict.fromkeys(labels, 1e-4),
        "prediction_set": labels,
        "modalities": {},
        "interaction": 0.0,
        "bundle": "many@0",
    }
    page = render_answer(body, ["title"], 0.9)
    assert "label 48, label 49 and 9,950 more</strong>" in page
    assert "of the 10 most probable labels of 10000" in page
    assert len(page) < 10_000


def test_rows_of_a_fit_are_a_sample_only_where_they_are_too_many() -> None:
    rows = EncodedRows(torch.rand(1000, 2, 3), torch.ones(1000, 2, dtype=bool), torch.arange(1000))
    assert rows.to_fit(4000) is rows
    sample = rows.to_fit(TOO_MANY)
    assert len(sample.labels) == 419
    assert sample.labels.unique().equal(sample.labels)
    assert sample.features.equal(rows.features[sample.labels])
    assert rows.to_fit(TOO_MANY).labels.equal(sample.labels)


@pytest.mark.parametrize("classes", [2, MANY, 10**8])
def test_blocks_hold_every_row_once(classes: int) -> None:
    rows = EncodedRows(torch.rand(50, 2, 3), torch.ones(50, 2, dtype=bool), torch.arange(50))
    blocks = list(rows.blocks(classes))
    assert torch.cat([block.labels for block in blocks]).equal(rows.labels)
    assert torch.cat([block.features for block in blocks]).equal(rows.features)
    assert len(blocks) == (50 if classes == 10**8 else 1)

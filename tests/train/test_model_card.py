"""The model card of a bundle, read back with the client of the Hugging Face Hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from dimml.bundle import MANIFEST, Bundle
from dimml.samples import subset_name, subsets
from train.evaluate import subset_table
from train.model_card import hub_metadata, model_card

ODD_LABELS = ["yes", "---", "a: [b] #c", '"\n- é']
"""Labels that YAML or the hub would take for something else than text."""


def report_of(*names: str) -> dict[str, Any]:
    """Return the report of an evaluation with different figures for each subset."""
    return {
        "split": "test",
        "samples": 40,
        "unreadable": 0,
        "bundle": "free@0123456789ab",
        "prediction_sets": None,
        "subsets": {
            subset_name(subset): {
                "samples": 40 - number,
                "accuracy": 0.9 - number / 100,
                "macro_f1": 0.8 - number / 100,
                "nll": 0.5 + number / 100,
                "ece": number / 1000,
            }
            for number, subset in enumerate(subsets(names))
        },
    }


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return report_of("front", "rear", "note")


def test_model_card_shows_every_figure(free_names_bundle: Path, report: dict[str, Any]) -> None:
    card = model_card(free_names_bundle, report)
    assert card.endswith(subset_table(report) + "\n")
    for name, row in report["subsets"].items():
        numbers = [f"{row[key]:.4f}" for key in ("accuracy", "macro_f1", "nll", "ece")]
        assert f"| {name} | {row['samples']} | {' | '.join(numbers)} |" in card
    for name in ("front", "rear", "note", "zero", "one", "two", "three"):
        assert name in card


def test_hub_reads_the_figures_of_every_subset(
    free_names_bundle: Path, report: dict[str, Any]
) -> None:
    data = ModelCard(model_card(free_names_bundle, report)).data
    assert (data.library_name, data.model_name) == ("dimml", "free")
    measured = {
        (result.dataset_config, result.metric_type): result.metric_value
        for result in data.eval_results
    }
    assert measured == {
        (subset, hub_name): row[figure]
        for subset, row in report["subsets"].items()
        for figure, hub_name in (
            ("accuracy", "accuracy"),
            ("macro_f1", "f1"),
            ("nll", "nll"),
            ("ece", "ece"),
        )
    }
    assert {result.dataset_split for result in data.eval_results} == {"test"}
    assert data.metrics == ["accuracy", "f1"]


def test_bundle_of_several_modalities_has_tags_and_no_task_of_the_hub(
    free_names_bundle: Path, report: dict[str, Any]
) -> None:
    data = ModelCard(model_card(free_names_bundle, report)).data
    assert data.pipeline_tag is None
    assert data.tags == ["onnx", "image", "text", "multimodal", "missing-modality"]


@pytest.mark.parametrize(
    ("name", "task"), [("front", "image-classification"), ("note", "text-classification")]
)
def test_bundle_of_one_modality_has_the_task_of_the_hub(
    free_names_bundle: Path, name: str, task: str
) -> None:
    manifest = Bundle.load(free_names_bundle).manifest
    alone = manifest.model_copy(update={"modalities": {name: manifest.modalities[name]}})
    metadata = hub_metadata(alone, report_of(name), None)
    assert metadata["pipeline_tag"] == task
    assert metadata["model-index"][0]["results"][0]["task"] == {"type": task}
    assert "multimodal" not in metadata["tags"]


def test_licence_is_in_the_header_only_if_it_is_given(
    free_names_bundle: Path, report: dict[str, Any]
) -> None:
    assert ModelCard(model_card(free_names_bundle, report)).data.license is None
    card = ModelCard(model_card(free_names_bundle, report, "cc-by-4.0"))
    assert card.data.license == "cc-by-4.0"


def test_odd_labels_and_licence_stay_text(
    free_names_bundle: Path, tmp_path: Path, report: dict[str, Any]
) -> None:
    bundle = shutil.copytree(free_names_bundle, tmp_path / "odd")
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps({**manifest, "labels": ODD_LABELS}))
    card = ModelCard(model_card(bundle, report, "no: yes\n---\n# x"))
    assert card.data.license == "no: yes\n---\n# x"
    assert len(card.data.eval_results) == 4 * len(report["subsets"])
    assert card.text.lstrip().startswith("# free@")

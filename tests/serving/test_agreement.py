"""HTTP, `dimml predict` and `dimml score` give the same prediction for the same sample."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest
import soundfile
from starlette.testclient import TestClient

from dimml.cli import main
from dimml.samples import subset_name, subsets

NAMES = ("audio", "image", "text")
SUBSETS = {subset_name(subset): subset for subset in subsets(NAMES)}
TEXTS = ("seven", "ça va, zero?", "one two three a b c d e f g h a b c d e f")

Document = dict[str, Any]
"""A prediction as JSON, or a row of scores."""


def write_samples(folder: Path) -> dict[str, dict[str, str]]:
    """Write a sample for every subset of the modalities.

    The recordings are mono and stereo, at two rates; the images are RGB, grey and transparent.

    Returns:
        Each subset's name and its sample: paths of the audio and the image, and the text.
    """
    random = np.random.default_rng(0)
    samples = {}
    for number, (key, subset) in enumerate(SUBSETS.items()):
        audio, image = folder / f"{number}.wav", folder / f"{number}.png"
        noise = 0.1 * random.standard_normal((9_000 + 3_000 * number, 1 + number % 2))
        soundfile.write(audio, noise, (16_000, 22_050)[number % 2])
        mode = ("RGB", "L", "RGBA")[number % 3]
        pixels = random.integers(0, 256, (40, 50, 4), np.uint8)
        PIL.Image.fromarray(pixels).convert(mode).save(image)
        values = {"audio": str(audio), "image": str(image), "text": TEXTS[number % 3]}
        samples[key] = {name: values[name] for name in subset}
    return samples


def run_dimml(*arguments: object) -> str:
    """Run a `dimml` command in this process and return its standard output."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(output):
        monkeypatch.setattr(sys, "argv", ["dimml", *map(str, arguments), "--providers", "cpu"])
        with pytest.raises(SystemExit) as exit_:
            main()
    assert exit_.value.code == 0
    return output.getvalue()


def post(client: TestClient, sample: dict[str, str]) -> Document:
    files = {
        name: (None, value) if name == "text" else (Path(value).name, Path(value).read_bytes())
        for name, value in sample.items()
    }
    response = client.post("/predict", files=files)
    assert response.status_code == 200
    return dict(response.json())


def score(bundle: Path, folder: Path, samples: Sequence[dict[str, str]]) -> list[Document]:
    """Score a table of samples and return the rows of the output."""
    with (folder / "in.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", *NAMES])
        writer.writeheader()
        writer.writerows({"id": n, **sample} for n, sample in enumerate(samples))
    run_dimml("score", bundle, folder / "in.csv", folder / "out.parquet")
    rows: list[Document] = pyarrow.parquet.read_table(folder / "out.parquet").to_pylist()
    assert [row["id"] for row in rows] == [str(n) for n in range(len(samples))]
    return rows


def as_row(prediction: Document) -> Document:
    """Return a prediction as a row of scores, without its id."""
    row = {key: prediction[key] for key in ("label", "confidence", "prediction_set", "bundle")}
    for name, modality in prediction["modalities"].items():
        for key in ("present", "label", "confidence", "weight"):
            row[f"{name}_{key}"] = modality[key]
    return row


def assert_same(first: Document, second: Document) -> None:
    """Check that two documents have the same keys and values, their numbers within 1e-5."""
    assert set(first) == set(second)
    for key, value in first.items():
        expected = pytest.approx(second[key], abs=1e-5) if isinstance(value, float) else second[key]
        assert value == expected, key


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return write_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle) as client:
        yield client


@pytest.fixture(scope="module")
def predictions(tiny_bundle: Path, samples: dict[str, dict[str, str]]) -> dict[str, Document]:
    """Return the prediction of `dimml predict --json` for each sample alone."""
    return {
        key: json.loads(
            run_dimml("predict", tiny_bundle, *(f"--{n}={v}" for n, v in sample.items()), "--json")
        )
        for key, sample in samples.items()
    }


@pytest.mark.parametrize("key", SUBSETS)
def test_http_agrees_with_predict(
    client: TestClient,
    samples: dict[str, dict[str, str]],
    predictions: dict[str, Document],
    key: str,
) -> None:
    response, expected = post(client, samples[key]), predictions[key]
    modalities = response.pop("modalities")
    assert [name for name in modalities if modalities[name]["present"]] == key.split("+")
    assert_same(response.pop("probabilities"), expected["probabilities"])
    for name in NAMES:
        assert_same(modalities[name], expected["modalities"][name])
    assert_same(response, {k: v for k, v in expected.items() if k in response})


@pytest.mark.parametrize("key", SUBSETS)
def test_score_of_one_row_agrees_with_predict(
    tiny_bundle: Path,
    tmp_path: Path,
    samples: dict[str, dict[str, str]],
    predictions: dict[str, Document],
    key: str,
) -> None:
    [row] = score(tiny_bundle, tmp_path, [samples[key]])
    expected = as_row(predictions[key])
    assert_same({k: row[k] for k in expected}, expected)
    assert row["error_code"] is None


def test_score_of_a_batch_agrees_with_predict(
    tiny_bundle: Path,
    tmp_path: Path,
    samples: dict[str, dict[str, str]],
    predictions: dict[str, Document],
) -> None:
    order = np.random.default_rng(1).permutation(list(SUBSETS) * 10)
    rows = score(tiny_bundle, tmp_path, [samples[key] for key in order])
    for key, row in zip(order, rows, strict=True):
        expected = as_row(predictions[key])
        assert_same({k: row[k] for k in expected}, expected)


def test_samples_have_different_predictions(predictions: dict[str, Document]) -> None:
    # Otherwise the comparisons above would not notice swapped rows.
    confidences = sorted(prediction["confidence"] for prediction in predictions.values())
    assert np.diff(confidences).min() > 1e-5

"""HTTP, `dimml predict` and `dimml score` give the same answer to the same sample."""

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

Answers = dict[str, Any]


def write_samples(folder: Path) -> dict[str, dict[str, str]]:
    """A sample for every subset, as paths and text: mono and stereo, grey and transparent."""
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


def dimml(*arguments: object) -> str:
    """What a `dimml` command writes to standard output."""
    written = io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(written):
        monkeypatch.setattr(sys, "argv", ["dimml", *map(str, arguments), "--providers", "cpu"])
        with pytest.raises(SystemExit) as stopped:
            main()
    assert stopped.value.code == 0
    return written.getvalue()


def post(client: TestClient, sample: dict[str, str]) -> Answers:
    files = {
        name: (None, value) if name == "text" else (Path(value).name, Path(value).read_bytes())
        for name, value in sample.items()
    }
    answer = client.post("/predict", files=files)
    assert answer.status_code == 200
    return dict(answer.json())


def score(bundle: Path, folder: Path, samples: Sequence[dict[str, str]]) -> list[Answers]:
    with (folder / "in.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", *NAMES])
        writer.writeheader()
        writer.writerows({"id": n, **sample} for n, sample in enumerate(samples))
    dimml("score", bundle, folder / "in.csv", folder / "out.parquet")
    rows: list[Answers] = pyarrow.parquet.read_table(folder / "out.parquet").to_pylist()
    assert [row["id"] for row in rows] == [str(n) for n in range(len(samples))]
    return rows


def as_row(answer: Answers) -> Answers:
    """An answer as a row of scores, without its id."""
    row = {key: answer[key] for key in ("label", "confidence", "prediction_set", "bundle")}
    for name, said in answer["modalities"].items():
        row |= {f"{name}_{key}": said[key] for key in ("present", "label", "confidence", "weight")}
    return row


def assert_same(first: Answers, second: Answers) -> None:
    """Equal values of equal keys, numbers within 1e-5."""
    assert set(first) == set(second)
    for key, value in first.items():
        wanted = pytest.approx(second[key], abs=1e-5) if isinstance(value, float) else second[key]
        assert value == wanted, key


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return write_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle) as client:
        yield client


@pytest.fixture(scope="module")
def predicted(tiny_bundle: Path, samples: dict[str, dict[str, str]]) -> dict[str, Answers]:
    """What `dimml predict --json` answers to each sample, alone."""
    return {
        key: json.loads(
            dimml("predict", tiny_bundle, *(f"--{n}={v}" for n, v in sample.items()), "--json")
        )
        for key, sample in samples.items()
    }


@pytest.mark.parametrize("key", SUBSETS)
def test_http_answers_as_predict_does(
    client: TestClient,
    samples: dict[str, dict[str, str]],
    predicted: dict[str, Answers],
    key: str,
) -> None:
    answer, wanted = post(client, samples[key]), predicted[key]
    assert [n for n, said in answer["modalities"].items() if said["present"]] == key.split("+")
    assert_same(answer.pop("probabilities"), wanted["probabilities"])
    modalities = answer.pop("modalities")
    for name in NAMES:
        assert_same(modalities[name], wanted["modalities"][name])
    assert_same(answer, {k: v for k, v in wanted.items() if k in answer})


@pytest.mark.parametrize("key", SUBSETS)
def test_score_answers_one_row_as_predict_does(
    tiny_bundle: Path,
    tmp_path: Path,
    samples: dict[str, dict[str, str]],
    predicted: dict[str, Answers],
    key: str,
) -> None:
    [row] = score(tiny_bundle, tmp_path, [samples[key]])
    wanted = as_row(predicted[key])
    assert_same({k: row[k] for k in wanted}, wanted)
    assert row["error_code"] is None


def test_score_answers_each_row_of_a_batch_as_predict_does(
    tiny_bundle: Path,
    tmp_path: Path,
    samples: dict[str, dict[str, str]],
    predicted: dict[str, Answers],
) -> None:
    order = np.random.default_rng(1).permutation(list(SUBSETS) * 10)
    rows = score(tiny_bundle, tmp_path, [samples[key] for key in order])
    for key, row in zip(order, rows, strict=True):
        wanted = as_row(predicted[key])
        assert_same({k: row[k] for k in wanted}, wanted)


def test_the_samples_are_told_apart(predicted: dict[str, Answers]) -> None:
    confidences = sorted(answer["confidence"] for answer in predicted.values())
    assert np.diff(confidences).min() > 1e-5

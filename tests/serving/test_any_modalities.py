"""Bundles of any modalities: over HTTP, in the OpenAPI document, and in scoring jobs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.testclient import TestClient

from dimml.bundle import Bundle
from dimml.modalities import Kind
from serving.offline.job import EngineOptions, ScoreOptions, score_tables
from tests.conftest import IMAGE, SharedFolder, export_tiny
from tests.serving.media import PNG, WAV, to_base64

TEXT = ("text", {"max_length": 16})
AUDIO = ("audio", {})
BUNDLES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "audio_alone": {"sound": AUDIO},
    "image_alone": {"scan": ("image", IMAGE)},
    "text_alone": {"title": TEXT},
    "two_images": {"front": ("image", IMAGE), "rear": ("image", IMAGE)},
    "five": {
        "mic_left": AUDIO,
        "mic_right": AUDIO,
        "front": ("image", IMAGE),
        "rear": ("image", IMAGE),
        "note": TEXT,
    },
    "eight": {
        **{f"photo{number}": ("image", IMAGE) for number in range(3)},
        **{f"sound{number}": AUDIO for number in range(3)},
        "title": TEXT,
        "body": TEXT,
    },
}
VALUES: dict[str, Any] = {"audio": WAV, "image": PNG, "text": "seven"}


class Opened(NamedTuple):
    """A bundle and a client of its service."""

    bundle: Path
    kinds: dict[str, str]
    client: TestClient


REPEATED = ("image_alone", "text_alone", "eight")
SLOW = pytest.mark.slow("the other bundles take the same paths")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[SLOW] if name in REPEATED else []) for name in BUNDLES],
)
def opened(
    request: pytest.FixtureRequest, tiny_bundle: Path, shared_folder: SharedFolder, open_client: Any
) -> Iterator[Opened]:
    modalities = BUNDLES[request.param]

    def copy_encoder(encoder: object, kind: Kind, path: Path) -> None:
        """Take the graph of the kind from the tiny bundle, because an export takes seconds."""
        [same] = (
            n for n, one in Bundle.load(tiny_bundle).kinds().items() if type(one) is type(kind)
        )
        shutil.copyfile(tiny_bundle / f"{same}.onnx", path)

    def write(path: Path) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr("export.onnx.export_encoder", copy_encoder)
            export_tiny(path, modalities)

    bundle = shared_folder(f"bundles/{request.param}", write)
    with open_client(bundle) as client:
        yield Opened(bundle, {name: kind for name, (kind, _) in modalities.items()}, client)


def test_whole_sample_is_answered_in_every_format(opened: Opened) -> None:
    values = {name: VALUES[kind] for name, kind in opened.kinds.items()}
    parts = {
        name: (None, value) if isinstance(value, str) else (name, value)
        for name, value in values.items()
    }
    document = {
        name: value if isinstance(value, str) else to_base64(value)
        for name, value in values.items()
    }
    client = opened.client
    line = json.dumps(document) + "\n"
    answers = [
        client.post("/predict", files=parts).json(),
        client.post("/predict", json=document).json(),
        client.post(
            "/predict", content=line, headers={"content-type": "application/x-ndjson"}
        ).json(),
    ]
    for answer in answers:
        assert list(answer["modalities"]) == list(opened.kinds)
        assert sum(one["weight"] for one in answer["modalities"].values()) == pytest.approx(1)
        assert answer["probabilities"] == pytest.approx(answers[0]["probabilities"], abs=1e-5)


def test_each_modality_alone_is_answered_and_nothing_is_left_without_it(opened: Opened) -> None:
    for name, kind in opened.kinds.items():
        value = VALUES[kind]
        part = (None, value) if isinstance(value, str) else (name, value)
        response = opened.client.post("/predict?explain=1", files={name: part})
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["modalities"][name]["weight"] == 1
        assert answer["without"] == {}
        present = [other for other, one in answer["modalities"].items() if one["present"]]
        assert present == [name]


def test_text_is_answered_in_a_form(opened: Opened) -> None:
    texts = {name: "seven" for name, kind in opened.kinds.items() if kind == "text"}
    response = opened.client.post("/predict", data=texts or {"nothing": "x"})
    assert response.status_code == (200 if texts else 422)


def test_bundle_and_openapi_document_name_the_modalities(opened: Opened) -> None:
    assert list(opened.client.get("/bundle").json()["modalities"]) == list(opened.kinds)
    document = opened.client.get("/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    for media_type in ("multipart/form-data", "application/json"):
        assert list(content[media_type]["schema"]["properties"]) == list(opened.kinds)
    form = content.get("application/x-www-form-urlencoded")
    texts = [name for name, kind in opened.kinds.items() if kind == "text"]
    assert list(form["schema"]["properties"] if form else []) == texts


def test_scores_are_those_of_the_service(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(WAV)
    (tmp_path / "a.png").write_bytes(PNG)
    cells = {"audio": "a.wav", "image": "a.png", "text": "seven"}
    names = list(opened.kinds)
    whole = [cells[kind] for kind in opened.kinds.values()]
    first = [whole[0], *[""] * (len(names) - 1)]
    rows = [["id", *names], ["whole", *whole], ["first", *first]]
    table = tmp_path / "in.csv"
    table.write_text("".join(",".join(row) + "\n" for row in rows))
    out = tmp_path / "out.parquet"
    options = ScoreOptions(probabilities=True)
    score_tables(opened.bundle, str(table), out, options, EngineOptions("cpu", workers=1))
    scores = pyarrow.parquet.read_table(out).to_pylist()
    for score, given in zip(scores, (names, names[:1]), strict=True):
        values = {name: VALUES[opened.kinds[name]] for name in given}
        parts = {n: (None, v) if isinstance(v, str) else (n, v) for n, v in values.items()}
        answer = opened.client.post("/predict", files=parts).json()
        assert dict(score["probabilities"]) == pytest.approx(answer["probabilities"], abs=1e-5)
        assert [name for name in names if score[f"{name}_present"]] == given

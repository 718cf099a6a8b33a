"""Features over HTTP and in scores."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from starlette.testclient import TestClient

from dimml import Predictor
from dimml.details import DetailedPrediction
from dimml.errors import UsageError
from serving.http.openapi import request_fields
from serving.http.parsing import JSON, RawRequest
from serving.offline.job import EngineOptions, ScoreOptions, score_tables
from serving.pipeline import Pipeline
from serving.settings import Settings
from tests.dimml.test_features import change_manifest
from tests.serving.http.line_requests import answers_of, encode_lines, post
from tests.serving.media import PNG, to_base64

CPU = EngineOptions(providers="cpu", workers=1)


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, providers="cpu")


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle) as client:
        yield client


def values_of(predictor: Predictor, **sample: Any) -> dict[str, Any]:
    prediction = predictor.predict(sample, features=True)
    assert isinstance(prediction, DetailedPrediction)
    return dict(prediction.features.values)


def assert_near(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(actual) == list(expected)
    for name, values in expected.items():
        assert actual[name] == (values and pytest.approx(list(values), abs=1e-5))


def test_answer_has_features_on_request(client: TestClient, predictor: Predictor) -> None:
    files = {"image": ("a.png", PNG), "text": (None, "two")}
    plain = client.post("/predict", files=files).json()
    answer = client.post("/predict?features=1", files=files).json()
    features = answer.pop("features")
    assert answer.pop("without") is None
    assert answer == plain
    assert features["version"] == 1
    assert features["values"]["audio"] is None
    assert_near(features["values"], values_of(predictor, image=PNG, text="two"))
    assert client.post("/predict?features=0", files=files).json() == plain


def test_answer_has_that_without_each_modality_on_request(client: TestClient) -> None:
    files = {"image": ("a.png", PNG), "text": (None, "two")}
    plain = client.post("/predict", files=files).json()
    answer = client.post("/predict?explain=1", files=files).json()
    without = answer.pop("without")
    assert answer.pop("features") is None
    assert answer == plain
    assert list(without) == ["image", "text"]
    for name, rest in (("image", {"text": (None, "two")}), ("text", {"image": ("a.png", PNG)})):
        alone = client.post("/predict", files=rest).json()
        assert without[name]["label"] == alone["label"]
        assert without[name]["confidence"] == pytest.approx(alone["confidence"], abs=1e-5)
        assert without[name]["prediction_set"] == alone["prediction_set"]
    assert client.post("/predict?explain=1", data={"text": "two"}).json()["without"] == {}


@pytest.mark.parametrize("query", ["features", "features=yes", "features=1&features=1"])
def test_invalid_value_of_features_is_rejected(client: TestClient, query: str) -> None:
    response = client.post(f"/predict?{query}", data={"text": "two"})
    assert (response.status_code, response.json()["error"]["field"]) == (422, "features")


def test_answers_to_lines_have_features(client: TestClient, predictor: Predictor) -> None:
    content = encode_lines({"text": "two"}, {}, {"image": to_base64(PNG)})
    first, error, last = answers_of(post(client, content, "/predict?features=1"))
    assert error["error"]["code"] == "no_modality"
    assert_near(first["features"]["values"], values_of(predictor, text="two"))
    assert_near(last["features"]["values"], values_of(predictor, image=PNG))


def test_openapi_document_describes_the_features(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    parameters = document["paths"]["/predict"]["post"]["parameters"]
    names = [parameter["name"] for parameter in parameters]
    assert names == ["on_unreadable", "features", "explain"]
    answer = client.post("/predict?features=1&explain=1", data={"text": "seven"}).json()
    schemas = document["components"]["schemas"]
    assert set(answer) == set(schemas["PredictAnswer"]["properties"])
    assert set(answer["features"]) == set(schemas["FeaturesAnswer"]["properties"])
    assert "features" not in schemas["PredictAnswer"]["required"]


def test_only_requests_that_ask_for_features_get_them(predictor: Predictor) -> None:
    queries = ["features=1", "", "features=1", "features=0", "features=1"]
    bodies = [b'{"text": "one"}', b'{"text": "two"}', b"{}", b'{"text": "one"}', b'{"text": "two"}']
    requests = [RawRequest(JSON, q, b) for q, b in zip(queries, bodies, strict=True)]
    pipeline = Pipeline(predictor, request_fields(predictor), Settings(), threads=1)
    first, second, error, fourth, last = (answer.content for answer in pipeline.answer(requests))
    for content, text in ((first, "one"), (last, "two")):
        assert isinstance(content, DetailedPrediction)
        assert_near(dict(content.features.values), values_of(predictor, text=text))
    kinds = [type(content).__name__ for content in (second, error, fourth)]
    assert kinds == ["Prediction", "InputError", "Prediction"]


def test_bundle_without_the_number_of_features_gives_an_error(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = change_manifest(tiny_bundle, tmp_path / "old", late_dim=None)
    predictor = Predictor.load(folder, providers="cpu")
    pipeline = Pipeline(predictor, request_fields(predictor), Settings(), threads=1)
    requests = [RawRequest(JSON, query, b'{"text": "one"}') for query in ("features=1", "")]
    error, answer = (result.content for result in pipeline.answer(requests))
    assert (getattr(error, "code", None), getattr(error, "field", None)) == (
        "invalid_request",
        "features",
    )
    assert answer == predictor.predict({"text": "one"})
    table = write_table(tmp_path)
    with pytest.raises(UsageError, match="export the run again"):
        score_tables(folder, table, tmp_path / "out", ScoreOptions(features=True), CPU)
    assert not (tmp_path / "out").exists()


def write_table(folder: Path) -> str:
    (folder / "a.png").write_bytes(PNG)
    rows = ["id,image,text", "a,a.png,two", "b,,one", "c,missing.png,", "d,a.png,"]
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return str(folder / "table.csv")


class TestScores:
    def test_scores_have_the_features_of_the_predictor(
        self, tiny_bundle: Path, predictor: Predictor, tmp_path: Path
    ) -> None:
        out = tmp_path / "scores.parquet"
        score_tables(
            tiny_bundle, write_table(tmp_path), out, ScoreOptions(features=True, window_rows=3), CPU
        )
        table = pyarrow.parquet.read_table(out)
        for name in predictor.kinds:
            assert table.schema.field(f"{name}_features").type == pa.list_(pa.float32())
        expected = [{"image": PNG, "text": "two"}, {"text": "one"}, None, {"image": PNG}]
        for row, sample in zip(table.to_pylist(), expected, strict=True):
            values = values_of(predictor, **sample) if sample else dict.fromkeys(predictor.kinds)
            assert_near({name: row[f"{name}_features"] for name in predictor.kinds}, values)

    def test_every_output_format_has_the_same_features(
        self, tiny_bundle: Path, tmp_path: Path
    ) -> None:
        table, options = write_table(tmp_path), ScoreOptions(features=True)
        for suffix in ("parquet", "jsonl", "csv"):
            score_tables(tiny_bundle, table, tmp_path / f"out.{suffix}", options, CPU)
        rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
        lines = (tmp_path / "out.jsonl").read_text().splitlines()
        cells = list(csv.DictReader((tmp_path / "out.csv").open()))
        for row, line, cell in zip(rows, lines, cells, strict=True):
            for name in ("image_features", "text_features", "audio_features"):
                assert json.loads(line)[name] == row[name]
                assert (json.loads(cell[name]) if cell[name] else None) == row[name]

    def test_job_with_features_is_not_resumed_without_them(
        self, tiny_bundle: Path, tmp_path: Path
    ) -> None:
        table, out = write_table(tmp_path), tmp_path / "scores"
        score_tables(tiny_bundle, table, out, ScoreOptions(features=True), CPU)
        with pytest.raises(UsageError, match="features"):
            score_tables(tiny_bundle, table, out, ScoreOptions(), CPU)
        again = score_tables(tiny_bundle, table, out, ScoreOptions(features=True), CPU)
        assert again["job"]["features"] is True

    def test_scores_have_no_features_by_default(self, tiny_bundle: Path, tmp_path: Path) -> None:
        out = tmp_path / "scores.parquet"
        score_tables(tiny_bundle, write_table(tmp_path), out, ScoreOptions(), CPU)
        assert "text_features" not in pyarrow.parquet.read_schema(out).names

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.testclient import TestClient


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle) as client:
        yield client


def test_openapi_document_is_valid_and_names_the_modalities(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert content.pop("application/x-ndjson")["schema"]["type"] == "string"
    names = {kind: set(body["schema"]["properties"]) for kind, body in content.items()}
    assert names == {
        "multipart/form-data": {"audio", "image", "text"},
        "application/json": {"audio", "image", "text"},
        "application/x-www-form-urlencoded": {"text"},
    }


def test_openapi_document_names_every_status(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    documented = document["paths"]["/predict"]["post"]["responses"]
    assert {int(status) for status in documented} == {
        200,
        400,
        401,
        413,
        415,
        422,
        429,
        500,
        503,
        504,
    }


def test_prediction_has_the_keys_of_the_openapi_document(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    prediction = client.post("/predict", data={"text": "seven"}).json()
    assert set(prediction) == set(schemas["PredictAnswer"]["properties"]) - {"features", "without"}
    for modality in prediction["modalities"].values():
        assert set(modality) == set(schemas["ModalityAnswer"]["properties"])

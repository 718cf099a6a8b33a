from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.testclient import TestClient

from serving.http.messages import STATUSES


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle) as client:
        yield client


class TestOpenapi:
    def test_openapi_is_valid_and_names_the_modalities(self, client: TestClient) -> None:
        document = client.get("/openapi.json").json()
        assert document["openapi"].startswith("3.1")
        OpenAPIV31SpecValidator(document).validate()
        content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
        names = {kind: set(body["schema"]["properties"]) for kind, body in content.items()}
        assert names == {
            "multipart/form-data": {"audio", "image", "text"},
            "application/json": {"audio", "image", "text"},
            "application/x-www-form-urlencoded": {"text"},
        }

    def test_openapi_names_every_status(self, client: TestClient) -> None:
        document = client.get("/openapi.json").json()
        answered = {200, *STATUSES.values(), 429, 500, 504}
        named = document["paths"]["/predict"]["post"]["responses"]
        assert {int(status) for status in named} == answered

    def test_answers_have_the_documented_keys(self, client: TestClient) -> None:
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        answer = client.post("/predict", data={"text": "seven"}).json()
        assert set(answer) == set(schemas["PredictAnswer"]["properties"])
        for said in answer["modalities"].values():
            assert set(said) == set(schemas["ModalityAnswer"]["properties"])

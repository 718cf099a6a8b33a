"""The service takes the names of the modalities from the bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.testclient import TestClient

from tests.serving.media import PNG


@pytest.fixture(scope="module")
def client(free_names_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(free_names_bundle) as client:
        yield client


def test_fields_have_the_names_of_the_bundle(client: TestClient) -> None:
    files = {"front": ("f.png", PNG), "rear": ("r.png", PNG)}
    response = client.post("/predict", files={**files, "note": (None, "two")})
    assert response.status_code == 200
    assert list(response.json()["modalities"]) == ["front", "rear", "note"]
    assert client.post("/predict", data={"note": "two"}).status_code == 200


def test_error_of_another_field_lists_the_names_of_the_bundle(client: TestClient) -> None:
    response = client.post("/predict", data={"text": "two"})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["field"]) == (422, "unknown_field", "text")
    assert "front, rear, note" in error["message"]


def test_bundle_page_and_openapi_have_the_names_of_the_bundle(client: TestClient) -> None:
    assert list(client.get("/bundle").json()["modalities"]) == ["front", "rear", "note"]
    document = client.get("/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert list(body["schema"]["properties"]) == ["front", "rear", "note"]

"""Modality names are the bundle's: nothing in the service knows `audio`, `image` or `text`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.testclient import TestClient


@pytest.fixture(scope="module")
def client(free_names_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(free_names_bundle) as client:
        yield client


def picture() -> bytes:
    file = io.BytesIO()
    PIL.Image.linear_gradient("L").resize((40, 40)).save(file, "PNG")
    return file.getvalue()


PNG = picture()


def test_parts_are_named_as_in_the_bundle(client: TestClient) -> None:
    files = {"front": ("f.png", PNG), "rear": ("r.png", PNG)}
    answer = client.post("/predict", files={**files, "note": (None, "two")})
    assert answer.status_code == 200
    assert list(answer.json()["modalities"]) == ["front", "rear", "note"]
    assert client.post("/predict", data={"note": "two"}).status_code == 200


def test_another_name_is_refused_with_those_accepted(client: TestClient) -> None:
    answer = client.post("/predict", data={"text": "two"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (422, "unknown_field", "text")
    assert "front, rear, note" in error["message"]


def test_the_documents_have_the_names(client: TestClient) -> None:
    assert list(client.get("/bundle").json()["modalities"]) == ["front", "rear", "note"]
    document = client.get("/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert list(body["schema"]["properties"]) == ["front", "rear", "note"]

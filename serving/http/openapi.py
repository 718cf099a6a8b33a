"""The OpenAPI 3.1 document of the service, with the modalities of the bundle it serves."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from serving.http.messages import ErrorAnswer, PredictAnswer
from serving.http.parsing import JSON, MULTIPART, URLENCODED, Fields

_REFERENCE = "#/components/schemas/"
_ERRORS = {
    "400": "No modality, or one that cannot be read",
    "401": "No API key, or one that is not accepted",
    "413": "The body, an image, a recording or a text is over its limit",
    "415": "A file or body of another type than is accepted",
    "422": "A request of the wrong shape",
    "429": "Over the rate limit of a key; Retry-After says when to come back",
    "500": "The service failed",
    "503": "As many requests as may wait do; Retry-After says when to come back",
    "504": "No answer in time",
}


def document(description: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """The document.

    Args:
        description: the answer of `GET /bundle`.
        fields: what each modality takes.
    """
    _, schemas = models_json_schema(
        [(PredictAnswer, "serialization"), (ErrorAnswer, "serialization")],
        ref_template=_REFERENCE + "{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"dimml: {description['bundle']}",
            "version": description["dimml"],
            "description": "Predicts from any non-empty subset of the modalities "
            + ", ".join(fields),
        },
        "paths": {
            "/predict": {"post": _predict(description, fields)},
            "/bundle": {"get": _page("The bundle served and the limits of a request", JSON)},
            "/livez": {"get": _page("200 while the process lives", "text/plain")},
            "/readyz": {"get": _page("200 once the bundle is warm", "text/plain")},
            "/metrics": {"get": _page("Metrics for Prometheus", "text/plain")},
            "/openapi.json": {"get": _page("This document", JSON)},
        },
        "components": {"schemas": schemas["$defs"]},
    }


def _predict(description: dict[str, Any], fields: Fields) -> dict[str, Any]:
    errors = {status: _answer(text, "ErrorAnswer") for status, text in _ERRORS.items()}
    return {
        "summary": "Predict from one sample",
        "operationId": "predict",
        "parameters": [_on_unreadable()],
        "requestBody": {"required": True, "content": _bodies(description, fields)},
        "responses": {"200": _answer("The prediction", "PredictAnswer"), **errors},
    }


def _on_unreadable() -> dict[str, Any]:
    return {
        "name": "on_unreadable",
        "in": "query",
        "description": "absent: what cannot be read is left out, and the rest answers",
        "schema": {"enum": ["error", "absent"], "default": "error"},
    }


def _bodies(description: dict[str, Any], fields: Fields) -> dict[str, Any]:
    inputs = {name: modality["input"] for name, modality in description["modalities"].items()}
    parts, values, texts = {}, {}, {}
    for name, field in fields.items():
        text = {"type": "string", "description": inputs[name]}
        if field.is_text:
            parts[name] = texts[name] = text
            values[name] = {**text, "type": ["string", "null"]}
            continue
        # `format` is what today's tools offer a file picker for.
        file = {**text, "contentMediaType": "application/octet-stream", "format": "binary"}
        encoded = {**text, "type": ["string", "null"], "contentEncoding": "base64"}
        parts[name] = _one_or_several(file, field.most)
        values[name] = _one_or_several(encoded, field.most)
    bodies = {MULTIPART: _object(parts), JSON: _object(values)}
    return {**bodies, URLENCODED: _object(texts)} if texts else bodies


def _one_or_several(schema: dict[str, Any], most: int) -> dict[str, Any]:
    if most == 1:
        return schema
    return {"anyOf": [schema, {"type": "array", "items": schema, "maxItems": most}]}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"schema": schema}


def _answer(description: str, schema: str) -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": _REFERENCE + schema}}}
    return {"description": description, "content": content}


def _page(description: str, content_type: str) -> dict[str, Any]:
    content: dict[str, Any] = {content_type: {}}
    return {"responses": {"200": {"description": description, "content": content}}}

"""The service described: `GET /bundle` and the OpenAPI 3.1 document, for the bundle it serves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic.json_schema import models_json_schema

import dimml
from dimml.modalities import Kind, Limits
from dimml.predictor import Predictor
from serving.capacity import Capacity
from serving.http.errors import ErrorAnswer, HttpError
from serving.http.messages import PredictAnswer
from serving.http.parsing import (
    JSON,
    MAX_PARTS,
    MULTIPART,
    NDJSON,
    URLENCODED,
    Fields,
    ModalityField,
)
from serving.settings import Settings

_REFERENCE = "#/components/schemas/"
_ON_UNREADABLE = {
    "name": "on_unreadable",
    "in": "query",
    "description": "absent: modalities that cannot be read are left out, and the others answer",
    "schema": {"enum": ["error", "absent"], "default": "error"},
}
_FEATURES = {
    "name": "features",
    "in": "query",
    "description": "1: the answer has the features of each modality",
    "schema": {"enum": ["0", "1"], "default": "0"},
}
_EXPLAIN = {
    "name": "explain",
    "in": "query",
    "description": "1: the answer has, for each modality, the answer without it",
    "schema": {"enum": ["0", "1"], "default": "0"},
}
_LINES = {
    "schema": {
        "type": "string",
        "description": "many samples: on each line one JSON document as for application/json; "
        "blank lines are skipped",
    }
}
_ANSWERED_LINES = {
    "schema": {
        "type": "string",
        "description": "the answers to the lines of the request, in order: on each line a "
        "PredictAnswer or an ErrorAnswer",
    }
}
_NOT_FROM_PREDICT = (
    HttpError.NOT_FOUND,
    HttpError.METHOD_NOT_ALLOWED,
    HttpError.HEAD_TIMEOUT,
    HttpError.HEAD_TOO_LARGE,
)


def sample_limits(settings: Settings) -> Limits:
    """Return the limits of one sample."""
    return Limits(
        bytes=settings.max_part_bytes,
        pixels=settings.max_pixels,
        seconds=settings.max_seconds,
        characters=settings.max_characters,
        frames=4 * MAX_PARTS,
    )


def request_fields(predictor: Predictor) -> Fields:
    """Return what the parser needs to know of each modality."""
    specs = predictor.bundle.manifest.modalities
    fields = {
        name: ModalityField(specs[name].kind == "text", kind.max_files)
        for name, kind in predictor.kinds.items()
    }
    for column, names in predictor.shared_columns.items():
        most = max(fields[name].most for name in names)
        fields[column] = ModalityField(fields[names[0]].is_text, most)
    return fields


def describe(predictor: Predictor, settings: Settings, capacity: Capacity) -> dict[str, Any]:
    """Return the answer of `GET /bundle`."""
    bundle = predictor.bundle
    conformal = bundle.manifest.conformal
    return {
        "bundle": bundle.id,
        "name": bundle.manifest.name,
        "precision": bundle.manifest.precision,
        "labels": list(predictor.labels),
        "modalities": {name: _modality(predictor, name) for name in predictor.kinds},
        "shared_fields": predictor.shared_columns,
        "prediction_sets": conformal
        and {"coverage": conformal.coverage, "uncertified": conformal.uncertified},
        "interaction": bundle.manifest.interaction,
        "limits": {
            "bytes": settings.max_body_bytes,
            "part_bytes": settings.max_part_bytes,
            "parts": settings.max_parts,
            "pixels": settings.max_pixels,
            "seconds": settings.max_seconds,
            "characters": settings.max_characters,
            "lines": settings.max_lines,
            "timeout_seconds": settings.timeout,
            "requests_per_second": settings.rate_limit,
        },
        "provider": predictor.provider,
        "plan": {**asdict(capacity), "provider": predictor.provider},
        "dimml": dimml.__version__,
    }


def _modality(predictor: Predictor, name: str) -> dict[str, Any]:
    spec, kind = predictor.bundle.manifest.modalities[name], predictor.kinds[name]
    text, config = kind.accepts(), _config(kind, spec.preprocessing)
    if kind.max_files > 1:
        text += f"; up to {kind.max_files:,} files, in order"
    return {"kind": spec.kind, "input": text, "preprocessing": config}


def _config(kind: Kind, preprocessing: dict[str, Any]) -> dict[str, Any]:
    """Return the preprocessing with the defaults that the manifest leaves out."""
    return kind.Config.model_validate(preprocessing).model_dump(mode="json")


def openapi_document(description: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """Return the OpenAPI document.

    Args:
        description: The answer of `GET /bundle`.
        fields: What each modality takes.
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
            + ", ".join(description["modalities"]),
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
    messages: dict[int, list[str]] = {}
    for error in HttpError:
        if error in _NOT_FROM_PREDICT:
            continue
        text = error.message.format(timeout=description["limits"]["timeout_seconds"])
        messages.setdefault(error.status, []).append(f"`{error.code}`: {text}.")
    errors = {
        str(status): _response(" Or ".join(texts), "ErrorAnswer")
        for status, texts in sorted(messages.items())
    }
    return {
        "summary": "Predict from one sample",
        "operationId": "predict",
        "parameters": [_ON_UNREADABLE, _FEATURES, _EXPLAIN],
        "requestBody": {"required": True, "content": _bodies(description, fields)},
        "responses": {"200": _with_lines(_response("The prediction", "PredictAnswer")), **errors},
    }


def _bodies(description: dict[str, Any], fields: Fields) -> dict[str, Any]:
    inputs = {name: modality["input"] for name, modality in description["modalities"].items()}
    for column, names in description["shared_fields"].items():
        inputs[column] = f"one value for {' and '.join(names)}, in place of a field for each"
    parts, values, texts = {}, {}, {}
    for name, field in fields.items():
        text = {"type": "string", "description": inputs[name]}
        if field.is_text:
            parts[name] = texts[name] = text
            values[name] = {**text, "type": ["string", "null"]}
            continue
        # Tools show a file picker for this `format`.
        file = {**text, "contentMediaType": "application/octet-stream", "format": "binary"}
        encoded = {**text, "type": ["string", "null"], "contentEncoding": "base64"}
        parts[name] = _one_or_several(file, field.most)
        values[name] = _one_or_several(encoded, field.most)
    bodies = {MULTIPART: _object(parts), JSON: _object(values), NDJSON: _LINES}
    return {**bodies, URLENCODED: _object(texts)} if texts else bodies


def _one_or_several(schema: dict[str, Any], max_items: int) -> dict[str, Any]:
    if max_items == 1:
        return schema
    return {"anyOf": [schema, {"type": "array", "items": schema, "maxItems": max_items}]}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"schema": schema}


def _response(description: str, schema: str) -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": _REFERENCE + schema}}}
    return {"description": description, "content": content}


def _with_lines(response: dict[str, Any]) -> dict[str, Any]:
    return {**response, "content": {**response["content"], NDJSON: _ANSWERED_LINES}}


def _page(description: str, content_type: str) -> dict[str, Any]:
    content: dict[str, Any] = {content_type: {}}
    return {"responses": {"200": {"description": description, "content": content}}}

"""What the service says of the bundle it serves, and what each modality takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import dimml
from dimml.modalities import Kind, Limits
from dimml.modalities.image import FORMATS
from dimml.predictor import Predictor
from serving.capacity import Capacity
from serving.http.parsing import MAX_PARTS, Fields, ModalityField
from serving.settings import Settings

INPUTS = {
    "audio": "a file: WAV, FLAC, OGG or MP3",
    "image": f"a file: {', '.join(FORMATS)}",
    "text": "plain text in UTF-8",
}
"""What to send for each kind of modality."""


def limits_of(settings: Settings) -> Limits:
    """The caps on one sample."""
    return Limits(
        bytes=settings.max_part_bytes,
        pixels=settings.max_pixels,
        seconds=settings.max_seconds,
        characters=settings.max_characters,
        frames=4 * MAX_PARTS,
    )


def fields_of(predictor: Predictor) -> Fields:
    """What the parser has to know of each modality."""
    specs = predictor.bundle.manifest.modalities
    return {
        name: ModalityField(
            is_text=specs[name].kind == "text",
            most=kind.limits.frames if _takes_frames(kind, specs[name].preprocessing) else 1,
        )
        for name, kind in predictor.kinds.items()
    }


def describe(predictor: Predictor, settings: Settings, plan: Capacity) -> dict[str, Any]:
    """The answer of `GET /bundle`."""
    bundle = predictor.bundle
    return {
        "bundle": bundle.id,
        "name": bundle.manifest.name,
        "precision": bundle.manifest.precision,
        "labels": list(predictor.labels),
        "modalities": {name: _modality(predictor, name) for name in predictor.kinds},
        "limits": {
            "bytes": settings.max_body_bytes,
            "part_bytes": settings.max_part_bytes,
            "parts": settings.max_parts,
            "pixels": settings.max_pixels,
            "seconds": settings.max_seconds,
            "characters": settings.max_characters,
            "timeout_seconds": settings.timeout,
            "requests_per_second": settings.rate_limit,
        },
        "provider": predictor.provider,
        "plan": {**asdict(plan), "provider": predictor.provider},
        "dimml": dimml.__version__,
    }


def _modality(predictor: Predictor, name: str) -> dict[str, Any]:
    spec, kind = predictor.bundle.manifest.modalities[name], predictor.kinds[name]
    wanted = INPUTS.get(spec.kind, "a file")
    if _takes_frames(kind, spec.preprocessing):
        wanted += f", or up to {kind.limits.frames} of them, in order"
    return {"kind": spec.kind, "input": wanted, "preprocessing": _config(kind, spec.preprocessing)}


def _config(kind: Kind, preprocessing: dict[str, Any]) -> dict[str, Any]:
    """The preprocessing with the defaults that the manifest leaves out."""
    return kind.Config.model_validate(preprocessing).model_dump(mode="json")


def _takes_frames(kind: Kind, preprocessing: dict[str, Any]) -> bool:
    return _config(kind, preprocessing).get("frames") is not None

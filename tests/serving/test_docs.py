"""The documents for operators name metrics, settings and limits that exist."""

from __future__ import annotations

import json
import re

import prometheus_client
import pytest

import dimml.modalities.image
import dimml.modalities.recordings
import dimml.modalities.video
import serving.http.multipart
import serving.http.protocol
import serving.metrics
from dimml.machine import SOURCE_ROOT
from serving.http.openapi import sample_limits
from serving.settings import Settings

DOCUMENTS = ("docs/operations.md", "docs/grafana.json")


def metric_names() -> set[str]:
    attributes = (getattr(serving.metrics, name) for name in dir(serving.metrics))
    collectors = (
        m for m in attributes if isinstance(m, prometheus_client.metrics.MetricWrapperBase)
    )
    return {metric.name for collector in collectors for metric in collector.collect()}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_metrics_exist(document: str) -> None:
    documented = set(re.findall(r"\bdimml_[a-z_]+", (SOURCE_ROOT / document).read_text()))
    assert len(documented) >= 8
    assert {
        re.sub(r"_(total|bucket|sum|count)$", "", name) for name in documented
    } <= metric_names()


def test_dashboard_shows_every_metric() -> None:
    text = (SOURCE_ROOT / "docs/grafana.json").read_text()
    assert all(name in text for name in metric_names())
    assert len(json.loads(text)["panels"]) == 11


def test_documented_settings_are_the_settings() -> None:
    pages = [path.read_text() for path in (SOURCE_ROOT / "docs").glob("*.md")]
    documented = {
        name.lower() for page in pages for name in re.findall(r"\bDIMML_([A-Z_0-9]+)", page)
    }
    assert documented <= set(Settings.model_fields)
    # The documents may omit the bundle, which is an argument of the command, and single limits.
    undocumented = {"bundle", *(name for name in Settings.model_fields if name.startswith("max_"))}
    assert set(Settings.model_fields) - documented <= undocumented


def test_documented_limits_are_the_limits() -> None:
    section = (
        (SOURCE_ROOT / "docs/inputs.md").read_text().partition("## Limits")[2].partition("\n## ")[0]
    )
    rows = re.findall(r"^\| (.+?) \| ([\d,]+)(?: × `DIMML_MAX_\w+`)? \|", section, re.MULTILINE)
    image, recordings = dimml.modalities.image, dimml.modalities.recordings
    fields = Settings.model_fields
    settable = [name for name in fields if name.startswith("max_") and name != "max_batch"]
    assert {name: float(value.replace(",", "")) for name, value in rows} == {
        **{f"`DIMML_{name.upper()}`": fields[name].default for name in [*settable, "timeout"]},
        "samples of all channels": recordings.MAX_RATE_AT_LENGTH,
        "channels": recordings.MAX_CHANNELS,
        "hertz": recordings.MAX_SAMPLE_RATE,
        "frames of a clip": sample_limits(Settings()).frames,
        "pixels of a clip": image.CLIP_PICTURES,
        "pixels that a video takes to decode": dimml.modalities.video.MAX_DECODED_PIXELS,
        "scans of a progressive JPEG": image.MAX_SCANS,
        "bytes of a file decoded in Python": image.MAX_INTERPRETED_BYTES,
        "bytes of URL, headers and trailers": serving.http.protocol.MAX_HEAD_BYTES,
        "requests ahead on a connection": serving.http.protocol.MAX_PIPELINED_REQUESTS,
        "seconds for the headers": serving.http.protocol.HEAD_SECONDS,
        "bytes before the first boundary of a form": serving.http.multipart.MAX_PREAMBLE_BYTES,
        "headers of a part": serving.http.multipart.MAX_HEADERS,
        "bytes of the headers of a part": serving.http.multipart.MAX_HEADER_BYTES,
    }

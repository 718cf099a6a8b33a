"""What the operator's documents name exists."""

from __future__ import annotations

import json
import re

import prometheus_client
import pytest

import serving.metrics
from serving.settings import ROOT, Settings

DOCUMENTS = ("docs/operations.md", "docs/grafana.json")


def metrics() -> set[str]:
    found = (getattr(serving.metrics, name) for name in dir(serving.metrics))
    collectors = (m for m in found if isinstance(m, prometheus_client.metrics.MetricWrapperBase))
    return {metric.name for collector in collectors for metric in collector.collect()}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_metric_that_is_named_is_measured(document: str) -> None:
    named = set(re.findall(r"\bdimml_[a-z_]+", (ROOT / document).read_text()))
    assert len(named) >= 8
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in named} <= metrics()


def test_the_dashboard_shows_every_metric() -> None:
    text = (ROOT / "docs/grafana.json").read_text()
    assert all(name in text for name in metrics())
    assert len(json.loads(text)["panels"]) == 11


def test_every_setting_that_is_named_exists_and_the_other_way_round() -> None:
    pages = [path.read_text() for path in (ROOT / "docs").glob("*.md")]
    named = {name.lower() for page in pages for name in re.findall(r"\bDIMML_([A-Z_]+)", page)}
    assert named <= set(Settings.model_fields)
    unnamed = {"bundle", *(name for name in Settings.model_fields if name.startswith("max_"))}
    assert set(Settings.model_fields) - named <= unnamed

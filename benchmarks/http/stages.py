"""Read from the service's metrics where the time of a request goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

STAGES = ("parse", "decode", "preprocess", "encode", "classify")
STAGE_METRIC, BATCH_METRIC = "dimml_stage_seconds", "dimml_batch_size"


def read_metrics(text: str) -> dict[str, float]:
    """Return the seconds of each stage so far, and the numbers of `requests` and `batches`.

    Args:
        text: The answer of `/metrics`.

    Returns:
        An empty mapping if the server does not expose these metrics.
    """
    totals: dict[str, float] = {}
    names = {f"{BATCH_METRIC}_sum": "requests", f"{BATCH_METRIC}_count": "batches"}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = names.get(sample.name)
            if sample.name == f"{STAGE_METRIC}_sum":
                key = sample.labels.get("stage")
            if key is not None:
                totals[key] = totals.get(key, 0.0) + sample.value
    return totals


def per_request(
    before: Mapping[str, float], after: Mapping[str, float], requests: int, cpu_seconds: float
) -> dict[str, Any] | None:
    """Return the microseconds per request between two readings of the metrics.

    Args:
        before: `read_metrics` before the load.
        after: `read_metrics` after the load.
        requests: Requests answered in between.
        cpu_seconds: Processor time of the whole server in between.

    Returns:
        `stage_us`, `cpu_us`, `rest_us` (processor time outside the stages: the framework and HTTP)
        and `batch_size`, the mean (None if not exposed). None if there are no stages.
    """
    spent = {key: value - before.get(key, 0.0) for key, value in after.items()}
    stages = {name: 1e6 * spent[name] / requests for name in STAGES if name in spent}
    if not stages:
        return None
    batches = spent.get("batches", 0.0)
    cpu = 1e6 * cpu_seconds / requests
    return {
        "stage_us": stages,
        "cpu_us": cpu,
        "rest_us": cpu - sum(stages.values()),
        "batch_size": spent["requests"] / batches if batches else None,
    }

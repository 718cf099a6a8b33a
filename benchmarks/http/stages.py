"""Where the time of a request goes, by the service's own metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

STAGES = ("parse", "decode", "preprocess", "encode", "classify")
SECONDS, BATCH = "dimml_stage_seconds", "dimml_batch_size"


def read_metrics(text: str) -> dict[str, float]:
    """Stage to its seconds so far, and `requests` and `batches`; empty where not exposed.

    Args:
        text: what `/metrics` answers.
    """
    found: dict[str, float] = {}
    names = {f"{BATCH}_sum": "requests", f"{BATCH}_count": "batches"}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = names.get(sample.name)
            if sample.name == f"{SECONDS}_sum":
                key = sample.labels.get("stage")
            if key is not None:
                found[key] = found.get(key, 0.0) + sample.value
    return found


def per_request(
    before: Mapping[str, float], after: Mapping[str, float], requests: int, cpu_seconds: float
) -> dict[str, Any] | None:
    """Microseconds per request between two readings; None where there are no stages.

    Args:
        before: `read_metrics` before the load.
        after: `read_metrics` after it.
        requests: answered in between.
        cpu_seconds: processor time of the whole server in between.

    Returns:
        `stage_us`, `cpu_us`, `rest_us` (the framework, HTTP, and whatever waits for nothing) and
        `batch_size`, the mean (None where not exposed).
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

"""The service's own metrics, shown by `/metrics` beside those of BentoML."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ANSWERS = Counter(
    "dimml_answers", "Answers by HTTP status, health checks and metrics apart.", ["status"]
)
PROVIDER = Gauge(
    "dimml_provider_info",
    "1 for the execution provider in use.",
    ["provider"],
    # One value for all workers, instead of one per process id.
    multiprocess_mode="max",
)

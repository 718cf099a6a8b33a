"""The metrics of the service, which `/metrics` exposes.

No label takes a value that a client chooses, so that clients cannot create time series.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from starlette.responses import Response

from dimml.samples import Prediction, subset_name

SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

REQUESTS = Counter(
    "dimml_requests", "Requests by response status, without health checks.", ["status"]
)
LATENCY = Histogram(
    "dimml_request_seconds", "Time from request headers to response end.", buckets=SECONDS_BUCKETS
)
LINES = Counter(
    "dimml_lines", "Samples of requests of many lines, by the code of their error or ok.", ["code"]
)
STAGE = Histogram(
    "dimml_stage_seconds", "Time of a batch in each stage.", ["stage"], buckets=SECONDS_BUCKETS
)
BATCH = Histogram("dimml_batch_size", "Requests in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
QUEUE = Gauge("dimml_queue_depth", "Requests that wait for a batch.", multiprocess_mode="livesum")
PREDICTIONS = Counter(
    "dimml_predictions", "Predictions by their subset of present modalities.", ["subset"]
)
PRESENT = Counter("dimml_modality_present", "Predictions that used the modality.", ["modality"])
CONFIDENCE = Counter(
    "dimml_modality_confidence", "Sum of the confidence of the modality's own label.", ["modality"]
)
WEIGHT = Counter(
    "dimml_modality_weight", "Sum of the modality's weight in the fused predictions.", ["modality"]
)
FALLBACKS = Counter(
    "dimml_fallbacks", "Unreadable modalities that a prediction left out.", ["modality"]
)
PROVIDER = Gauge(
    "dimml_provider_info",
    "1 for the execution provider in use.",
    ["provider"],
    # One value for all workers, instead of one per process id.
    multiprocess_mode="max",
)

# The children are created once, because each call of `labels()` takes a lock.
STAGES = {
    stage: STAGE.labels(stage) for stage in ("parse", "decode", "preprocess", "encode", "classify")
}


def count_predictions(predictions: Sequence[Prediction]) -> None:
    """Count a batch of predictions by subset, and add up the outputs of each modality."""
    if not predictions:
        return
    # Sums over the batch come first, because each update of a metric takes a lock.
    subsets: dict[str, int] = {}
    sums: dict[str, list[float]] = {}  # present, confidence, weight, fallbacks
    for prediction in predictions:
        present = [name for name, output in prediction.modalities.items() if output.present]
        subset = subset_name(present)
        subsets[subset] = subsets.get(subset, 0) + 1
        for name, output in prediction.modalities.items():
            modality_sums = sums.setdefault(name, [0.0, 0.0, 0.0, 0.0])
            modality_sums[0] += output.present
            modality_sums[1] += output.confidence or 0.0
            modality_sums[2] += output.weight
            # An absent modality has warnings only if its value was unreadable.
            modality_sums[3] += bool(output.warnings) and not output.present
    for subset, count in subsets.items():
        PREDICTIONS.labels(subset).inc(count)
    for name, (present_in, confidence, weight, fallbacks) in sums.items():
        PRESENT.labels(name).inc(present_in)
        CONFIDENCE.labels(name).inc(confidence)
        WEIGHT.labels(name).inc(weight)
        FALLBACKS.labels(name).inc(fallbacks)


def exposition() -> Response:
    """Return the metrics of all workers in the text format of Prometheus."""
    registry = REGISTRY
    if _folder():
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def forget_dead_workers() -> None:
    """Remove the gauges of killed workers, which the sum over live workers would still include."""
    folder = _folder()
    for path in Path(folder).glob("gauge_live*_*.db") if folder else ():
        pid = path.stem.rpartition("_")[2]
        # Without /proc, no worker is known to be dead.
        if Path("/proc/self").exists() and not Path("/proc", pid).exists():
            multiprocess.mark_process_dead(int(pid), folder)  # type: ignore[no-untyped-call]


def _folder() -> str | None:
    """Return the folder of the workers' metric files. BentoML empties it at start."""
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR") or None

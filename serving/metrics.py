"""The service's own metrics, shown by `/metrics`. No label takes a value that a client chooses."""

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

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

REQUESTS = Counter(
    "dimml_requests", "Requests by status of the answer; health checks apart.", ["status"]
)
LATENCY = Histogram(
    "dimml_request_seconds", "From a request's headers to its whole answer.", buckets=SECONDS
)
STAGE = Histogram(
    "dimml_stage_seconds", "Time of a batch in each stage.", ["stage"], buckets=SECONDS
)
BATCH = Histogram("dimml_batch_size", "Requests in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
QUEUE = Gauge("dimml_queue_depth", "Requests that wait for a batch.", multiprocess_mode="livesum")
PREDICTIONS = Counter(
    "dimml_predictions", "Predictions by the modalities they were made from.", ["subset"]
)
PRESENT = Counter("dimml_modality_present", "Predictions a modality took part in.", ["modality"])
CONFIDENCE = Counter(
    "dimml_modality_confidence", "Sum of the confidence of a modality's own label.", ["modality"]
)
WEIGHT = Counter(
    "dimml_modality_weight", "Sum of a modality's share in the fused answers.", ["modality"]
)
FALLBACKS = Counter(
    "dimml_fallbacks", "Modalities that could not be read and were left out.", ["modality"]
)
PROVIDER = Gauge(
    "dimml_provider_info",
    "1 for the execution provider in use.",
    ["provider"],
    # One value for all workers, instead of one per process id.
    multiprocess_mode="max",
)

# A child for each label, because `labels()` takes a lock.
STAGES = {
    stage: STAGE.labels(stage) for stage in ("parse", "decode", "preprocess", "encode", "classify")
}


def count_predictions(predictions: Sequence[Prediction]) -> None:
    """Counts a batch of predictions by subset, and what its modalities said."""
    if not predictions:
        return
    subsets: dict[str, int] = {}
    sums: dict[str, list[float]] = {}  # present, confidence, weight, fallbacks
    for prediction in predictions:
        present = [name for name, said in prediction.modalities.items() if said.present]
        subset = subset_name(present)
        subsets[subset] = subsets.get(subset, 0) + 1
        for name, said in prediction.modalities.items():
            of_modality = sums.setdefault(name, [0.0, 0.0, 0.0, 0.0])
            of_modality[0] += said.present
            of_modality[1] += said.confidence or 0.0
            of_modality[2] += said.weight
            # Only what was given and then left out has a warning and is not present.
            of_modality[3] += bool(said.warnings) and not said.present
    for subset, count in subsets.items():
        PREDICTIONS.labels(subset).inc(count)
    for name, (present_in, confidence, weight, fallbacks) in sums.items():
        PRESENT.labels(name).inc(present_in)
        CONFIDENCE.labels(name).inc(confidence)
        WEIGHT.labels(name).inc(weight)
        FALLBACKS.labels(name).inc(fallbacks)


def exposition() -> Response:
    """The metrics of all workers, as Prometheus reads them."""
    registry = REGISTRY
    if _folder():
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def forget_dead_workers() -> None:
    """Removes the gauges of workers that were killed, which would count for ever."""
    folder = _folder()
    for path in Path(folder).glob("gauge_live*_*.db") if folder else ():
        pid = path.stem.rpartition("_")[2]
        if Path("/proc/self").exists() and not Path("/proc", pid).exists():
            multiprocess.mark_process_dead(int(pid), folder)  # type: ignore[no-untyped-call]


def _folder() -> str | None:
    """Where the workers of one service keep their metrics; BentoML empties it at start."""
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR") or None

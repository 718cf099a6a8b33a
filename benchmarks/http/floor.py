"""Measure the stages of `dimml.Predictor` in loops without HTTP.

A loop decodes, preprocesses, encodes, classifies and builds answers, one stage at a time for a
batch of samples. The best loop is the throughput that a service could reach if HTTP, scheduling and
waiting for batches cost nothing.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from itertools import cycle
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import orjson

from dimml import Predictor
from dimml.outputs import PreparedSample, build_predictions

STAGES = ("decode", "preprocess", "encode", "classify", "answer")
LOAD_SECONDS = 120
WARM_UP_BATCHES = 8


class StageLoop:
    """The stages of a predictor, timed one by one.

    Attributes:
        seconds: Time spent so far in each stage.
    """

    def __init__(self, bundle: Path, answers: bool) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._predictor = Predictor.load(bundle, "cpu", threads=1)
        self._answers = answers

    def run(self, samples: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Return the JSON answers of good samples; none if the loop builds no answers."""
        predictor = self._predictor
        times = [time.perf_counter()]
        decoded = predictor.decode([(sample, "error") for sample in samples])
        times.append(time.perf_counter())
        prepared = predictor.preprocess(decoded)
        batch = [item for item in prepared if isinstance(item, PreparedSample)]
        if len(batch) < len(samples):
            raise RuntimeError("a sample of the loop cannot be read")
        times.append(time.perf_counter())
        encoded = predictor.encode(batch)
        times.append(time.perf_counter())
        fused = predictor.fuse(encoded)
        times.append(time.perf_counter())
        answers = []
        if self._answers:
            predictions = build_predictions(predictor.bundle, batch, fused)
            answers = [orjson.dumps(prediction) for prediction in predictions]
        times.append(time.perf_counter())
        for stage, started, ended in zip(STAGES, times, times[1:], strict=False):
            self.seconds[stage] += ended - started
        return answers


def _run_loop(
    bundle: Path,
    samples: Sequence[Mapping[str, Any]],
    batch: int,
    seconds: float,
    answers: bool,
    barrier: Barrier,
    results: Any,
) -> None:
    """Put requests per second, and seconds per request and stage, into the queue `results`."""
    try:
        loop = StageLoop(bundle, answers)
        starts = range(0, len(samples) - batch + 1, batch)
        batches = [samples[start : start + batch] for start in starts]
        for part in batches[:WARM_UP_BATCHES]:
            loop.run(part)
        loop.seconds = dict.fromkeys(STAGES, 0.0)
        # The clocks of all processes start together, after the slowest of them has loaded.
        barrier.wait(timeout=LOAD_SECONDS)
    except BaseException:
        barrier.abort()
        raise
    turns = cycle(batches)
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        loop.run(next(turns))
        count += batch
    results.put((count / elapsed, {name: loop.seconds[name] / count for name in STAGES}))


def measure_loops(
    bundle: Path,
    samples: Sequence[Mapping[str, Any]],
    processes: int,
    batch: int,
    seconds: float,
    answers: bool = True,
) -> dict[str, Any]:
    """Measure loops in several processes at once.

    Args:
        bundle: Folder of the bundle.
        samples: Samples with every modality, at least `batch` of them.
        processes: Number of processes, with one thread each.
        batch: Samples per batch.
        seconds: Duration of the measurement.
        answers: Build the JSON answers, as the HTTP service has to.

    Returns:
        `processes`, `batch`, `per_second` (of all processes together) and `stage_us`
        (microseconds per request and stage).
    """
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    arguments = (bundle, samples, batch, seconds, answers, barrier, results)
    children = [
        context.Process(target=_run_loop, args=arguments, daemon=True) for _ in range(processes)
    ]
    for child in children:
        child.start()
    figures = [results.get(timeout=seconds + LOAD_SECONDS) for _ in children]
    for child in children:
        child.join()
    stages = {name: 1e6 * sum(part[name] for _, part in figures) / processes for name in STAGES}
    rate = sum(rate for rate, _ in figures)
    return {"processes": processes, "batch": batch, "per_second": rate, "stage_us": stages}

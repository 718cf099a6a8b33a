"""The floor: the same work without HTTP, in loops over samples that are in memory.

A loop decodes, preprocesses, collates, runs the graphs and builds the JSON, stage by stage for a
batch. Run as `python -m benchmarks.http.floor BUNDLE DATA --processes 2 --batch 16`; prints JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.http.answers import differences
from benchmarks.http.load import read_samples
from benchmarks.http.rivals.answers import Answers
from dimml import InputError, Predictor
from dimml.runtime.session import Graph

STAGES = ("decode", "preprocess", "encode", "classify", "answer")


class Loop:
    """A bundle's kinds and graphs, one stage at a time.

    Attributes:
        seconds: stage to the time spent in it.
    """

    def __init__(self, predictor: Predictor) -> None:
        bundle = predictor.bundle
        manifest = bundle.manifest
        self.kinds = predictor.kinds
        self.encoders = {
            name: Graph(bundle.path / spec.graph, "cpu", 1)
            for name, spec in manifest.modalities.items()
        }
        self.classifier = Graph(bundle.path / manifest.classifier, "cpu", 1)
        self.feature_dim = manifest.feature_dim
        self.answers = Answers.of(bundle)
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def run(self, samples: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """The JSON answers of samples that have every modality."""
        present, outputs, warnings = self.compute(samples)
        started = time.perf_counter()
        probabilities, weights, logits = outputs
        built = self.answers.build(present, probabilities, weights, logits, warnings)
        answers = [orjson.dumps(answer) for answer in built]
        self._spent("answer", started)
        return answers

    def compute(self, samples: Sequence[Mapping[str, Any]]) -> tuple[Any, list[Any], list[Any]]:
        """What of the samples is present, what the classifier puts out, and warnings."""
        started = time.perf_counter()
        raw = {n: [k.decode(sample[n]) for sample in samples] for n, k in self.kinds.items()}
        started = self._spent("decode", started)
        arrays = {n: [k.preprocess(value) for value in raw[n]] for n, k in self.kinds.items()}
        warnings = [
            {n: k.warnings(raw[n][row]) for n, k in self.kinds.items()}
            for row in range(len(samples))
        ]
        started = self._spent("preprocess", started)
        features = self._encode(arrays, len(samples))
        started = self._spent("encode", started)
        present = np.ones(features.shape[:2], bool)
        outputs = self.classifier.run({"features": features, "present": present})
        self._spent("classify", started)
        return present, outputs, warnings

    def _encode(self, arrays: Mapping[str, list[Any]], count: int) -> np.ndarray:
        features = np.zeros((count, len(self.kinds), self.feature_dim), np.float32)
        for slot, (name, kind) in enumerate(self.kinds.items()):
            buckets: dict[object, list[int]] = defaultdict(list)
            for row, item in enumerate(arrays[name]):
                buckets[kind.bucket(item)].append(row)
            for rows in buckets.values():
                inputs = kind.collate([arrays[name][row] for row in rows])
                [features[rows, slot]] = self.encoders[name].run(inputs)
        return features

    def _spent(self, stage: str, started: float) -> float:
        now = time.perf_counter()
        self.seconds[stage] += now - started
        return now


def check(loop: Loop, predictor: Predictor, samples: Sequence[Mapping[str, Any]]) -> None:
    """Raises `RuntimeError` where the loop and the predictor differ."""
    for got, expected in zip(loop.run(samples), predictor.predict_many(samples), strict=True):
        if isinstance(expected, InputError):
            raise expected
        if found := differences(expected.to_dict(), json.loads(got)):
            raise RuntimeError(f"the loop does not answer as the predictor does: {found}")


def _process(
    bundle: Path, data: Path, batch: int, seconds: float, barrier: Barrier, results: Any
) -> None:
    try:
        predictor = Predictor.load(bundle, "cpu", threads=1)
        samples = read_samples(predictor.bundle, data)
        loop = Loop(predictor)
        check(loop, predictor, samples[:4])
        batches = [samples[start : start + batch] for start in range(0, len(samples), batch)]
        for part in batches:
            loop.run(part)
        loop.seconds = dict.fromkeys(STAGES, 0.0)
        barrier.wait(timeout=60)
    except BaseException:
        barrier.abort()
        raise
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        for part in batches:
            loop.run(part)
            count += len(part)
    results.put((count / elapsed, {name: loop.seconds[name] / count for name in STAGES}))


def measure(bundle: Path, data: Path, processes: int, batch: int, seconds: float) -> dict[str, Any]:
    """Requests per second of all processes together, and microseconds per request and stage."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    arguments = (bundle, data, batch, seconds, barrier, results)
    children = [
        context.Process(target=_process, args=arguments, daemon=True) for _ in range(processes)
    ]
    for child in children:
        child.start()
    found = [results.get(timeout=seconds + 90) for _ in children]
    for child in children:
        child.join()
    stages = {name: 1e6 * sum(part[name] for _, part in found) / processes for name in STAGES}
    rate = sum(rate for rate, _ in found)
    return {"processes": processes, "batch": batch, "per_second": rate, "stage_us": stages}


def main() -> None:
    """Measures once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    found = measure(given.bundle, given.data, given.processes, given.batch, given.seconds)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

"""The arithmetic of `python -m benchmarks.http`, without a server and without `wrk`."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from benchmarks.http.answers import differences
from benchmarks.http.load import CONTENT_TYPE, LoadResult, multipart, parse_wrk
from benchmarks.http.report import markdown
from benchmarks.http.servers import FASTAPI_ONNX, OURS
from benchmarks.http.stages import per_request, read_metrics
from benchmarks.http.targets import (
    ALL,
    cell,
    floor_ratio,
    judge,
    tail_ratio,
    throughput_ratio,
)
from serving.http.multipart import read_parts

FIGURES = {
    "requests": 1000,
    "seconds": 2.0,
    "p50_ms": 10.0,
    "p99_ms": 25.0,
    "max_ms": 40.0,
    "not_2xx": 1,
    "socket_errors": 2,
    "timeouts": 3,
}
OUTPUT = f"""Running 2s test @ http://127.0.0.1:1/predict
  1 threads and 8 connections
  Non-2xx or 3xx responses: 1
Requests/sec:    500.00

wrk-result {json.dumps(FIGURES)}
"""


class TestWrkOutput:
    def test_result_line_of_wrk_is_parsed(self) -> None:
        load = parse_wrk(OUTPUT)
        assert load == LoadResult(**FIGURES)
        assert load.per_second == 500
        assert load.errors == 6

    def test_wrk_result_without_answers_is_parsed(self) -> None:
        silent = {**FIGURES, "requests": 0, "timeouts": 8}
        assert parse_wrk(f"wrk-result {json.dumps(silent)}").per_second == 0

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            ("", r"no result: \(nothing\)"),
            ("unable to connect to 127.0.0.1:1 Connection refused", "Connection refused"),
            ('wrk-result {"requests": 3}', "missing"),
            ('wrk-result {"requests": -nan}', "-nan"),
        ],
    )
    def test_broken_wrk_output_is_shown_in_the_error(self, output: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            parse_wrk(output)


def test_service_parses_the_multipart_body() -> None:
    sample = {"audio": b"RIFF\r\n--\x00", "text": "zwölf"}
    body = multipart(sample, {"audio": "audio", "text": "text"})
    parts = read_parts(CONTENT_TYPE, body, 16, 1_000)
    read = [(part.name, part.filename, part.content) for part in parts]
    assert read == [
        ("audio", "sample.wav", b"RIFF\r\n--\x00"),
        ("text", None, "zwölf".encode()),
    ]


class TestDifferences:
    ANSWER: ClassVar[dict[str, Any]] = {"label": "9", "p": [0.5, 0.5], "set": ("9",), "none": None}

    def test_answers_within_the_tolerance_are_equal(self) -> None:
        got = {**self.ANSWER, "p": [0.50005, 0.49995], "set": ["9"]}
        assert differences(self.ANSWER, got) == []

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"p": [0.6, 0.4]}, "answer.p[0] is 0.6, not 0.5"),
            ({"p": [float("nan"), 0.5]}, "answer.p[0] is nan, not 0.5"),
            ({"p": [0.5]}, "answer.p is [0.5], not [0.5, 0.5]"),
            ({"label": "8"}, "answer.label is '8', not '9'"),
            ({"none": 0.0}, "answer.none is 0.0, not None"),
            ({"more": 1}, "answer has the keys"),
        ],
    )
    def test_difference_of_answers_is_described(self, change: dict[str, Any], message: str) -> None:
        assert differences(self.ANSWER, {**self.ANSWER, **change})[0].startswith(message)


METRICS = """# TYPE dimml_stage_seconds histogram
dimml_stage_seconds_bucket{stage="parse",le="+Inf"} 4.0
dimml_stage_seconds_count{stage="parse"} 4.0
dimml_stage_seconds_sum{stage="parse"} 0.5
dimml_stage_seconds_sum{stage="encode"} 1.5
# TYPE dimml_batch_size histogram
dimml_batch_size_bucket{le="+Inf"} 2.0
dimml_batch_size_count 2.0
dimml_batch_size_sum 8.0
"""


class TestStages:
    def test_stage_times_are_differences_of_the_metrics(self) -> None:
        after = {"parse": 1.5, "encode": 3.5, "requests": 108.0, "batches": 27.0}
        times = per_request(read_metrics(METRICS), after, requests=100, cpu_seconds=4.0)
        assert times is not None
        assert times["stage_us"] == pytest.approx({"parse": 10_000, "encode": 20_000})
        assert times["cpu_us"] == pytest.approx(40_000)
        assert times["rest_us"] == pytest.approx(10_000)
        assert times["batch_size"] == pytest.approx(4)

    def test_service_without_stage_metrics_has_no_stage_times(self) -> None:
        nothing = read_metrics("# TYPE up gauge\nup 1.0\n")
        assert per_request(nothing, nothing, requests=100, cpu_seconds=4.0) is None


def one_round(
    ours: float, rival: float, floor: float, p99: float = 20.0, name: str = FASTAPI_ONNX
) -> dict[str, Any]:
    """Return a round with one rival and the same figures at each number of connections."""

    def cells(rate: float) -> dict[str, Any]:
        figures = {"per_second": rate, "p50_ms": 10.0, "p99_ms": p99, "cpu_ms": 1.0, "errors": 0}
        figures |= {"cores": 1.5, "disturbance": 0.1, "pss_mib": 100.0, "peak_rss_mib": 120.0}
        return {cell(ALL, count): {**figures, "stages": None} for count in (1, 8, 32)}

    loops = [(1, 1, 9e9), (2, 1, 9e9), (2, 4, floor / 2), (2, 16, floor)]
    return {
        "busy_percent": 1.0,
        "order": [OURS, name],
        "servers": {OURS: cells(ours), name: cells(rival)},
        "floor": [
            {
                "processes": p,
                "batch": b,
                "per_second": rate,
                "stage_us": {"decode": 100.0},
                "disturbance": 0.5 if b == 16 else 0.0,
            }
            for p, b, rate in loops
        ],
    }


class TestRatios:
    def test_throughput_ratio_compares_servers_of_one_round(self) -> None:
        assert throughput_ratio(FASTAPI_ONNX, 8)(one_round(900, 300, 1000)) == 3

    def test_absent_or_silent_rival_has_no_throughput_ratio(self) -> None:
        assert throughput_ratio(FASTAPI_ONNX, 8)(one_round(900, 0, 1000)) is None
        assert throughput_ratio("another", 8)(one_round(900, 300, 1000)) is None

    def test_floor_ratio_uses_the_best_batched_loop_of_several_processes(self) -> None:
        assert floor_ratio(one_round(700, 300, 1000)) == pytest.approx(0.7)

    def test_tail_ratio_is_the_99th_percentile_over_the_median(self) -> None:
        assert tail_ratio(one_round(700, 300, 1000, p99=25)) == pytest.approx(2.5)


class TestTargets:
    ROUNDS = (one_round(200, 100, 1000), one_round(600, 200, 1000), one_round(100, 100, 1000))
    """Three rounds whose throughput ratios are 2, 3 and 1."""

    def test_target_is_judged_by_the_median_ratio(self) -> None:
        verdicts = {one["target"]: one for one in judge(self.ROUNDS)}
        onnx = verdicts[f"req/s at 32 over {FASTAPI_ONNX}"]
        assert (onnx["median"], onnx["low"], onnx["high"]) == (2.0, 1.0, 3.0)
        assert onnx["met"]

    def test_lower_and_upper_bounds_are_judged_differently(self) -> None:
        verdicts = {one["target"]: one for one in judge(self.ROUNDS)}
        assert not verdicts["req/s at 32 over the best batched loop without HTTP"]["met"]
        assert verdicts["p99 over p50 at 32"]["met"]
        slow = {one["target"]: one for one in judge([one_round(200, 100, 1000, p99=31.0)])}
        assert not slow["p99 over p50 at 32"]["met"]

    def test_unmeasured_target_is_not_judged(self) -> None:
        assert all("LitServe" not in one["target"] for one in judge(self.ROUNDS))

    def test_report_shows_each_target_with_its_verdict(self) -> None:
        document = {
            "machine": {
                "processor": "p",
                "cores": 2,
                "memory_gib": 24,
                "system": "Linux",
                "python": "3.11",
                "packages": {"wrk": "4.1.0"},
            },
            "settings": {"seconds": 5.0, "samples": 64, "connections": (1, 8, 32), "rounds": 3},
            "targets": judge(self.ROUNDS),
            "rounds": self.ROUNDS,
        }
        text = markdown(document)
        assert f"| req/s at 32 over {FASTAPI_ONNX} | ≥ 1.5 | 2.00 (1.00 to 3.00) | yes |" in text
        assert "| ≥ 0.65 | 0.20 (0.10 to 0.60) | **no** |" in text
        assert "In 3 of 30 measurements, other processes used more than 0.2 cores." in text
        assert "repeat it on a quiet machine" in text
        assert "Not exposed by this version of the service." in text

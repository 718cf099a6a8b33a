"""What an operator sees and sets: keys, limits, the plan, metrics and the request log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

KEY = "correct-horse-battery-staple"
HEALTH = ("/livez", "/readyz")


def ask(client: TestClient, **options: Any) -> Any:
    return client.post("/predict", data={"text": "seven"}, **options)


def metric(client: TestClient, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split()[0] == name)


class TestKeys:
    @pytest.fixture
    def client(self, tiny_bundle: Path, open_client: Any) -> Any:
        with open_client(tiny_bundle, api_keys=KEY) as client:
            yield client

    @pytest.mark.parametrize(
        "headers", [{"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}], ids=["bearer", "x"]
    )
    def test_a_key_opens(self, client: TestClient, headers: dict[str, str]) -> None:
        assert ask(client, headers=headers).status_code == 200

    @pytest.mark.parametrize("headers", [{}, {"X-API-Key": KEY + "!"}, {"X-API-Key": "é"}])
    def test_anything_else_is_a_401_that_says_what_to_send(
        self, client: TestClient, headers: dict[str, str]
    ) -> None:
        for answer in (
            ask(client, headers={k: v.encode() for k, v in headers.items()}),
            client.get("/bundle", headers={k: v.encode() for k, v in headers.items()}),
            client.get("/metrics"),
            client.get("/nowhere"),
        ):
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "unauthorized"
            assert "key" in answer.json()["error"]["message"]
            assert answer.headers["www-authenticate"] == "Bearer"
            assert KEY not in answer.text

    def test_health_needs_none(self, client: TestClient) -> None:
        assert [client.get(path).status_code for path in HEALTH] == [200, 200]


class TestAnonymous:
    def test_other_machines_get_a_401_that_names_the_settings(
        self, tiny_bundle: Path, open_client: Any
    ) -> None:
        with open_client(tiny_bundle, host="10.1.2.3") as client:
            answer = ask(client)
            assert answer.status_code == 401
            assert "DIMML_ALLOW_ANONYMOUS" in answer.json()["error"]["message"]
            assert [client.get(path).status_code for path in HEALTH] == [200, 200]

    def test_unless_they_are_allowed(self, tiny_bundle: Path, open_client: Any) -> None:
        with open_client(tiny_bundle, host="10.1.2.3", allow_anonymous=1) as client:
            assert ask(client).status_code == 200


def test_over_the_rate_is_a_429_with_a_time_to_wait(tiny_bundle: Path, open_client: Any) -> None:
    with open_client(tiny_bundle, rate_limit=2) as client:
        answers = [ask(client) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["error"]["code"] == "overloaded"
        assert int(answers[2].headers["retry-after"]) >= 1
        assert client.get("/livez").status_code == 200


def test_the_plan_and_the_limits_are_shown(tiny_bundle: Path, open_client: Any) -> None:
    settings = {"workers": 3, "threads": 2, "max_batch": 5, "queue": 7, "max_part_bytes": 40_000}
    with open_client(tiny_bundle, **settings) as client:
        page = client.get("/bundle").json()
        assert page["plan"] == {
            "provider": "cpu",
            "workers": 3,
            "threads": 2,
            "max_batch": 5,
            "queue": 7,
        }
        assert page["limits"]["part_bytes"] == 40_000
        answer = client.post("/predict", files={"image": b"x" * 40_001})
        assert (answer.status_code, answer.json()["error"]["field"]) == (413, "image")


def test_metrics_count_what_was_asked_and_answered(tiny_bundle: Path, open_client: Any) -> None:
    with open_client(tiny_bundle) as client:
        names = (
            'dimml_requests_total{status="200"}',
            'dimml_requests_total{status="422"}',
            'dimml_predictions_total{subset="text"}',
            'dimml_modality_present_total{modality="text"}',
            'dimml_modality_weight_total{modality="text"}',
            'dimml_fallbacks_total{modality="image"}',
            "dimml_batch_size_sum",
            'dimml_stage_seconds_count{stage="encode"}',
            'dimml_stage_seconds_count{stage="parse"}',
            "dimml_request_seconds_count",
        )
        before = [metric(client, name) for name in names]
        ask(client)
        broken = {"image": b"no image", "text": (None, "seven")}
        client.post("/predict?on_unreadable=absent", files=broken)
        client.post("/predict", data={"song": "x"})
        gained = [metric(client, name) - old for name, old in zip(names, before, strict=True)]
        # The two last requests of every count are the pages of metrics themselves.
        assert gained[0] >= 2
        assert gained[1:9] == [1, 2, 2, 2, 1, 3, 2, 3]
        assert gained[9] >= 3
        assert 'dimml_provider_info{provider="cpu"} 1.0' in client.get("/metrics").text


class TestRequestLog:
    @pytest.fixture
    def records(
        self, tiny_bundle: Path, open_client: Any, capsys: pytest.CaptureFixture[str]
    ) -> Callable[[Callable[[TestClient], object]], list[dict[str, Any]]]:
        def logged(act: Callable[[TestClient], object]) -> list[dict[str, Any]]:
            with open_client(tiny_bundle) as client:
                act(client)
            lines = capsys.readouterr().out.splitlines()
            return [json.loads(line) for line in lines if line.startswith("{")]

        return logged

    def test_a_line_per_request_with_its_trace_and_no_payload(self, records: Any) -> None:
        def act(client: TestClient) -> None:
            answer = ask(client, headers={"X-Request-ID": "shop-17"})
            assert answer.headers["x-request-id"] == "shop-17"
            client.post("/predict", data={"text": "very private words", "image": "x"})
            client.get("/livez")

        good, bad = records(act)
        assert (good["id"], good["method"], good["path"]) == ("shop-17", "POST", "/predict")
        assert (good["status"], good["batch"]) == (200, 1)
        stages = ("parse", "decode", "preprocess", "encode", "classify")
        assert all(good[f"{stage}_ms"] > 0 for stage in stages)
        assert good["ms"] > sum(good[f"{stage}_ms"] for stage in stages)
        assert (bad["status"], bad["error"]) == (422, "invalid_request")
        assert "private" not in json.dumps(bad)

    @pytest.mark.parametrize("given", ["", "a b", "x" * 65, 'a"b', "ü"])
    def test_an_odd_request_id_is_replaced(self, records: Any, given: str) -> None:
        answers = []
        headers = {"X-Request-ID": given.encode()}
        [record] = records(lambda client: answers.append(ask(client, headers=headers)))
        assert record["id"] == answers[0].headers["x-request-id"] != given
        assert len(record["id"]) == 16

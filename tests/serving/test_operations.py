"""The keys, limits, plan, metrics and request log of a service."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.serving.responses import metric_of

KEY = "correct-horse-battery-staple"
HEALTH = ("/livez", "/readyz")


def predict(client: TestClient, **options: Any) -> Any:
    return client.post("/predict", data={"text": "seven"}, **options)


class TestKeys:
    @pytest.fixture
    def client(self, tiny_bundle: Path, open_client: Any) -> Any:
        with open_client(tiny_bundle, api_keys=KEY) as client:
            yield client

    @pytest.mark.parametrize(
        "headers", [{"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}], ids=["bearer", "x"]
    )
    def test_request_with_a_key_is_answered(
        self, client: TestClient, headers: dict[str, str]
    ) -> None:
        assert predict(client, headers=headers).status_code == 200

    @pytest.mark.parametrize("headers", [{}, {"X-API-Key": KEY + "!"}, {"X-API-Key": "é"}])
    def test_request_without_an_accepted_key_is_a_401_that_asks_for_a_key(
        self, client: TestClient, headers: dict[str, str]
    ) -> None:
        for response in (
            predict(client, headers={k: v.encode() for k, v in headers.items()}),
            client.get("/bundle", headers={k: v.encode() for k, v in headers.items()}),
            client.get("/metrics"),
            client.get("/nowhere"),
        ):
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "unauthorized"
            assert "key" in response.json()["error"]["message"]
            assert response.headers["www-authenticate"] == "Bearer"
            assert KEY not in response.text

    def test_health_needs_no_key(self, client: TestClient) -> None:
        assert [client.get(path).status_code for path in HEALTH] == [200, 200]


class TestAnonymous:
    def test_other_machine_without_keys_gets_a_401_that_names_the_settings(
        self, tiny_bundle: Path, open_client: Any
    ) -> None:
        with open_client(tiny_bundle, host="10.1.2.3") as client:
            response = predict(client)
            assert response.status_code == 401
            assert "DIMML_ALLOW_ANONYMOUS" in response.json()["error"]["message"]
            assert [client.get(path).status_code for path in HEALTH] == [200, 200]

    def test_other_machine_is_answered_if_anonymous_requests_are_allowed(
        self, tiny_bundle: Path, open_client: Any
    ) -> None:
        with open_client(tiny_bundle, host="10.1.2.3", allow_anonymous=1) as client:
            assert predict(client).status_code == 200


def test_request_over_the_rate_limit_is_a_429_with_retry_after(
    tiny_bundle: Path, open_client: Any
) -> None:
    with open_client(tiny_bundle, rate_limit=2) as client:
        responses = [predict(client) for _ in range(3)]
        assert [response.status_code for response in responses] == [200, 200, 429]
        assert responses[2].json()["error"]["code"] == "overloaded"
        assert int(responses[2].headers["retry-after"]) >= 1
        assert client.get("/livez").status_code == 200


def test_bundle_page_shows_the_plan_and_the_limits(tiny_bundle: Path, open_client: Any) -> None:
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
        response = client.post("/predict", files={"image": b"x" * 40_001})
        assert (response.status_code, response.json()["error"]["field"]) == (413, "image")


def test_metrics_count_requests_predictions_and_stages(tiny_bundle: Path, open_client: Any) -> None:
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
        before = [metric_of(client, name) for name in names]
        predict(client)
        broken = {"image": b"no image", "text": (None, "seven")}
        client.post("/predict?on_unreadable=absent", files=broken)
        client.post("/predict", data={"song": "x"})
        increases = [metric_of(client, name) - old for name, old in zip(names, before, strict=True)]
        # Requests for the metrics are requests, too, and count in the first and the last metric.
        assert increases[0] >= 2
        assert increases[1:9] == [1, 2, 2, 2, 1, 3, 2, 3]
        assert increases[9] >= 3
        assert 'dimml_provider_info{provider="cpu"} 1.0' in client.get("/metrics").text


class TestRequestLog:
    @pytest.fixture
    def records(
        self, tiny_bundle: Path, open_client: Any, capsys: pytest.CaptureFixture[str]
    ) -> Callable[[Callable[[TestClient], object]], list[dict[str, Any]]]:
        def record(act: Callable[[TestClient], object]) -> list[dict[str, Any]]:
            with open_client(tiny_bundle) as client:
                act(client)
            lines = capsys.readouterr().out.splitlines()
            return [json.loads(line) for line in lines if line.startswith("{")]

        return record

    def test_log_has_a_line_per_request_with_its_id_and_without_its_content(
        self, records: Any
    ) -> None:
        def act(client: TestClient) -> None:
            response = predict(client, headers={"X-Request-ID": "shop-17"})
            assert response.headers["x-request-id"] == "shop-17"
            client.post("/predict", data={"text": "very private words", "image": "x"})
            client.get("/livez")

        valid, invalid = records(act)
        assert (valid["id"], valid["method"], valid["path"]) == ("shop-17", "POST", "/predict")
        assert (valid["status"], valid["batch"]) == (200, 1)
        stages = ("parse", "decode", "preprocess", "encode", "classify")
        assert all(valid[f"{stage}_ms"] > 0 for stage in stages)
        assert valid["ms"] > sum(valid[f"{stage}_ms"] for stage in stages)
        assert (invalid["status"], invalid["error"]) == (422, "invalid_request")
        assert "private" not in json.dumps(invalid)

    @pytest.mark.parametrize("request_id", ["", "a b", "x" * 65, 'a"b', "ü"])
    def test_invalid_request_id_is_replaced(self, records: Any, request_id: str) -> None:
        responses = []
        headers = {"X-Request-ID": request_id.encode()}
        [record] = records(lambda client: responses.append(predict(client, headers=headers)))
        assert record["id"] == responses[0].headers["x-request-id"] != request_id
        assert len(record["id"]) == 16

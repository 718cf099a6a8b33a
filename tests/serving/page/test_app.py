"""The page's requests: who may see it, what it serves, and what it never fetches."""

from __future__ import annotations

import base64
import http.server
import importlib.util
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dimml.errors import UsageError
from serving.page.uploads import delete_old_files, find_files
from serving.settings import Settings, uses_page
from tests.serving.page.page_bundle import add_examples

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
KEY = "a-key-of-the-page-0123456789"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="needs the extra `ui`"
)


@pytest.fixture(scope="module")
def client(
    tiny_bundle: Path, open_client: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    bundle = add_examples(tiny_bundle, tmp_path_factory.mktemp("bundle") / "page")
    with open_client(bundle, ui=1, api_keys=KEY, max_part_bytes=100_000) as client:
        client.headers["x-api-key"] = KEY
        yield client


def basic(password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"user:{password}".encode()).decode()}


def answered(client: TestClient) -> float:
    """Return the number of requests that the service has answered with 200."""
    counts = re.findall(
        r'^dimml_requests_total\{status="200"\} (\S+)', client.get("/metrics").text, re.M
    )
    return float(counts[0]) if counts else 0.0


def event(client: TestClient, *, image: Any = None, text: str = "seven") -> Any:
    """Send the event of the button Predict."""
    config = client.get("/config").json()
    [button] = [c["id"] for c in config["components"] if c["props"].get("elem_id") == "predict"]
    dependency = next(d for d in config["dependencies"] if [button, "click"] in d["targets"])
    values = {"image": image, "text": text}
    names = {c["id"]: c["props"].get("elem_id") or "" for c in config["components"]}
    data = [
        True if names[i].startswith("use-") else values.get(names[i]) for i in dependency["inputs"]
    ]
    document = {"data": data, "fn_index": dependency["id"], "session_hash": "abc"}
    return client.post("/gradio_api/run/predict", json=document)


def test_browser_gets_the_page_and_programs_get_json(client: TestClient) -> None:
    page = client.get("/", headers=HTML)
    assert page.headers["content-type"].startswith("text/html")
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    assert client.get("/", headers={"accept": "*/*"}).json() == client.get("/bundle").json()
    assert client.get("/", headers={"accept": "application/json"}).json()["labels"]


def test_page_without_a_key_asks_the_browser_for_it(client: TestClient) -> None:
    without = {**HTML, "x-api-key": ""}
    for path in ("/", "/config", "/theme.css"):
        response = client.get(path, headers=without)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Basic ")
        assert response.json()["error"]["code"] == "unauthorized"
    assert client.post(
        "/gradio_api/upload", headers=without, files={"files": b"x"}
    ).status_code == (401)
    assert client.get("/", headers={**without, **basic("wrong")}).status_code == 401
    assert client.get("/", headers={**without, **basic(KEY)}).status_code == 200


def test_password_is_a_key_of_the_api_too(client: TestClient) -> None:
    headers = {"x-api-key": "", **basic(KEY)}
    assert client.post("/predict", data={"text": "one"}, headers=headers).status_code == 200
    response = client.post("/predict", data={"text": "one"}, headers={"x-api-key": ""})
    assert response.headers["www-authenticate"] == "Bearer"


def test_event_predicts_as_the_api_does(client: TestClient) -> None:
    before = answered(client)
    [answer] = event(client).json()["data"]
    expected = client.post("/predict", data={"text": "seven"}).json()
    assert f"<strong>{expected['label']}</strong>" in answer
    # The event, the request, and the first reading of the metrics.
    assert answered(client) == before + 3


def test_labels_and_messages_are_escaped(client: TestClient) -> None:
    from serving.page.answer import render_answer

    answer = event(client, text="<img src=x onerror=alert(1)>").json()["data"][0]
    assert "<img" not in answer
    error = {"error": {"code": "unreadable", "message": "<b>x</b>", "field": "<i>"}}
    page = render_answer(error, ["image"], None)
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<i>" not in page


@pytest.fixture
def other_service() -> Iterator[tuple[str, list[str]]]:
    """Run a server and return its URL and the paths that were asked for."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/secret", paths
        server.shutdown()


def test_no_url_of_a_client_is_fetched(
    client: TestClient, other_service: tuple[str, list[str]]
) -> None:
    url, paths = other_service
    for path in (url, url.replace("http", "HTTP", 1)):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}, "url": path}
        assert event(client, image=file).status_code == 422
    assert client.get(f"/gradio_api/file={url}").status_code == 404
    assert client.get(f"/gradio_api/proxy={url}").status_code == 404
    assert paths == []


def test_no_file_of_the_server_is_read(client: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    for path in (str(secret), "/etc/passwd", "../../etc/passwd"):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        response = event(client, image=file)
        assert response.status_code == 422
        assert "choose it again" in response.json()["error"]["message"]
        assert client.get(f"/gradio_api/file={path}").status_code in (400, 404)


@pytest.mark.parametrize(
    "path",
    [
        *("/gradio_api/info", "/gradio_api/openapi.json", "/monitoring", "/login", "/token"),
        *("/gradio_api/mcp", "/gradio_api/runs", "/gradio_api/queue/data", "/docs", "/redoc"),
        # Such an answer lasts as long as its client wants, and a stop would wait for it.
        *("/gradio_api/heartbeat/abc", "/gradio_api/upload_progress?upload_id=abc"),
    ],
)
def test_other_routes_of_gradio_are_not_there(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "body",
    [b"", b"[", b"{}", b"[]", b'{"data": 5}', b'{"fn_index": 99, "data": []}'],
)
def test_malformed_event_is_an_error_of_the_client(client: TestClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = client.post("/gradio_api/run/predict", content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")


def dependencies(client: TestClient) -> list[dict[str, Any]]:
    return list(client.get("/config").json()["dependencies"])


@pytest.mark.parametrize(
    "value",
    [5, True, [1], ["a"], {"a": 1}, {"path": 5}, {"url": "x"}, "/etc/passwd", [[[[]]]], -1, "0"],
    ids=repr,
)
def test_event_with_a_wrong_value_is_an_error_of_the_client(client: TestClient, value: Any) -> None:
    for dependency in dependencies(client):
        for place in range(len(dependency["inputs"])):
            data: list[Any] = [None] * len(dependency["inputs"])
            data[place] = value
            document = {"data": data, "fn_index": dependency["id"]}
            response = client.post("/gradio_api/run/predict", json=document)
            assert response.status_code == 422
            assert response.json()["error"]["code"] == "invalid_request"


def test_every_event_of_the_page_is_either_answered_or_rejected(client: TestClient) -> None:
    statuses = set()
    for dependency in dependencies(client):
        document = {"data": [], "fn_index": dependency["id"]}
        statuses.add(client.post("/gradio_api/run/predict", json=document).status_code)
    assert statuses == {200, 422}


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
    ids=str,
)
def test_page_of_another_origin_cannot_use_this_one(
    client: TestClient, headers: dict[str, str]
) -> None:
    for path in ("/gradio_api/upload", "/gradio_api/run/predict"):
        response = client.post(path, headers=headers, files={"files": ("a.png", b"x")})
        assert response.status_code == 422
        assert "DIMML_CORS_ORIGINS" in response.json()["error"]["message"]
    answer = client.get("/config", headers={"host": "shop.example", **headers})
    assert "access-control-allow-origin" not in answer.headers


def test_own_origin_may_upload(client: TestClient) -> None:
    files = {"files": ("a.png", b"x")}
    for headers in ({"sec-fetch-site": "same-origin"}, {"origin": "http://testserver"}):
        assert client.post("/gradio_api/upload", headers=headers, files=files).status_code == 200


def test_upload_over_the_limits_or_malformed_is_rejected(client: TestClient) -> None:
    upload = "/gradio_api/upload"
    large = client.post(upload, files={"files": ("a.png", b"x" * 200_000)})
    many = client.post(upload, files=[("files", (f"{n}.png", b"x" * 90_000)) for n in range(250)])
    for response in (large, many):
        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
    malformed = client.post(upload, files={"files": (None, "")})
    assert (malformed.status_code, malformed.json()["error"]["code"]) == (422, "invalid_request")


def test_full_disk_is_said(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gradio.route_utils.NamedTemporaryFile", fail)
    response = client.post("/gradio_api/upload", files={"files": ("a.png", b"x")})
    assert response.status_code == 500
    assert "cannot be stored" in response.json()["error"]["message"]


def test_old_uploads_are_deleted_and_examples_are_kept(tmp_path: Path) -> None:
    for name in ("old/a.png", "new/b.png", "kept/example.wav", "part"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        if "new" not in name:
            os.utime(path, (0, 0))
    kept = find_files(tmp_path, {"example.wav"})
    delete_old_files(tmp_path, kept, seconds=60)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == ["kept", "kept/example.wav", "new", "new/b.png"]


def test_label_cannot_put_html_on_the_page(client: TestClient) -> None:
    from serving.page.layout import _introduction

    text = _introduction("<i>name</i>", {"image": {}}, ["<img src=x>", "*x*"])
    assert "<img" not in text
    assert "&lt;img src=x&gt;" in text
    assert "<i>" not in text


def test_page_that_is_asked_for_needs_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not uses_page(Settings(ui=None))
    with pytest.raises(UsageError, match=r"pip install -e '.\[ui\]'"):
        uses_page(Settings(ui=True))


def test_page_is_off_on_request() -> None:
    assert uses_page(Settings(ui=None))
    assert not uses_page(Settings(ui=False))

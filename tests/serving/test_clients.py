"""docs/clients.md: every block runs against a service, as the page has it."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dimml import Predictor
from dimml.machine import SOURCE_ROOT
from serving.http.errors import HttpError
from tests.serving.conftest import free_port
from tests.serving.media import PNG, WAV
from tests.serving.responses import assert_same, metric_of
from tests.serving.server_requests import connect_to, predict, wait_until

PAGE = (SOURCE_ROOT / "docs/clients.md").read_text()
SERVICE = "http://localhost:3000"
KEY = "a-key-of-clients-0123456789"
QUEUE, MAX_BODY_BYTES = 8, 65_536
REFUSED = 'dimml_requests_total{status="503"}'
NO_NODE = "needs Node 18 or newer, which is not installed"


@dataclass(frozen=True)
class Block:
    """A block of the page; a block whose first line is a comment with a file name is a file."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        match = re.match(r"(?:#|//|<!--) ([\w-]+\.\w+)(?: -->)?\n", self.text)
        return match[1] if match else None


BLOCKS = [Block(*match) for match in re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)]
PROGRAMS = [block for block in BLOCKS if not block.file]


@dataclass(frozen=True)
class Clients:
    """A service, and a folder with the files of the page and of its examples."""

    server: Any
    folder: Path
    origin: str
    predictor: Predictor

    def start(self, block: Block) -> subprocess.Popen[str]:
        """Start a block of the page."""
        text = block.text.replace(SERVICE, str(self.server.client.base_url).rstrip("/"))
        if block.language == "sh":
            command = ["sh", "-euc", text]
        else:
            suffix = {"python": "py", "js": "mjs"}[block.language]
            path = self.folder / f"program-{PROGRAMS.index(block)}.{suffix}"
            path.write_text(text)
            command = [sys.executable if block.language == "python" else "node", str(path)]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, "API_KEY": KEY},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def answer(self, **sample: Any) -> dict[str, Any]:
        """Return the JSON of Python's own answer."""
        answer = self.predictor.predict(sample, explain=True).to_dict()
        return dict(json.loads(json.dumps(answer)))


def output_of(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def clients(
    tiny_bundle: Path, open_server: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Clients]:
    folder = tmp_path_factory.mktemp("clients")
    contents = {"seven.wav": WAV, "seven.png": PNG, "damaged.png": PNG[: len(PNG) // 2]}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    origin = f"http://127.0.0.1:{free_port()}"
    with open_server(
        tiny_bundle,
        workers=1,
        queue=QUEUE,
        max_body_bytes=MAX_BODY_BYTES,
        api_keys=KEY,
        cors_origins=origin,
    ) as server:
        server.wait_until_ready()
        server.client.headers["x-api-key"] = KEY
        url = str(server.client.base_url).rstrip("/")
        for block in BLOCKS:
            if block.file:
                (folder / block.file).write_text(block.text.replace(SERVICE, url))
        yield Clients(server, folder, origin, Predictor.load(tiny_bundle, "cpu"))


def check_full_answer(clients: Clients, output: str) -> None:
    full = clients.answer(audio=WAV, image=PNG, text="NUN")
    del full["without"], full["features"]
    assert_same(json.loads(output), full)


def check_answer_without_the_damaged_image(clients: Clients, output: str) -> None:
    answer = json.loads(output)
    assert "cannot decode the image" in answer["modalities"]["image"]["warnings"][0]
    assert set(answer["without"]) == {"audio", "text"}
    assert answer["label"] == clients.answer(audio=WAV, text="NUN")["label"]


def check_answer_to_image_and_text(clients: Clients, output: str) -> None:
    assert json.loads(output)["label"] == clients.answer(image=PNG, text="NUN")["label"]


def check_answer_and_error(clients: Clients, output: str) -> None:
    answer, error = output.splitlines()
    full = clients.answer(audio=WAV, image=PNG, text="NUN")
    label, confidence, without_text = answer.split()
    assert (label, without_text) == (full["label"], full["without"]["text"]["label"])
    assert float(confidence) == pytest.approx(full["confidence"], abs=1e-5)
    assert error.startswith("another image is needed: cannot decode the image")


def check_labels_of_texts(clients: Clients, output: str) -> None:
    labels = {text: clients.answer(text=text)["label"] for text in ("NUN", "seven", "sept")}
    assert output.splitlines() == [f"{text} {label}" for text, label in labels.items()] * 20


def check_printed_label(clients: Clients, output: str) -> None:
    label, confidence = output.split()
    expected = clients.answer(image=PNG, text="NUN")
    assert label == expected["label"]
    assert float(confidence) == pytest.approx(expected["confidence"], abs=1e-5)


def check_answers_to_lines(clients: Clients, output: str) -> None:
    labels = [clients.answer(text=text)["label"] for text in ("NUN", "seven")]
    assert output.splitlines() == [*labels, "no_modality"]


CHECKS: list[Callable[[Clients, str], None]] = [
    check_full_answer,
    check_answer_without_the_damaged_image,
    check_answer_to_image_and_text,
    check_answer_and_error,
    check_labels_of_texts,
    check_answer_and_error,
    check_printed_label,
    check_answers_to_lines,
]
"""What each program of the page prints, in the order of the page."""


def name_of(value: object) -> str:
    return value.language if isinstance(value, Block) else getattr(value, "__name__", "")


CASES = list(zip(PROGRAMS, CHECKS, strict=True))
RETRYING = [case for case in CASES if re.search(r"dimml.client", case[0].text)]
"""The programs that use the modules of the page, which wait while the service is busy."""


@pytest.mark.parametrize(
    ("block", "check"), [case for case in CASES if case not in RETRYING], ids=name_of
)
def test_program_of_the_page_prints_the_answer(
    clients: Clients, block: Block, check: Callable[[Clients, str], None]
) -> None:
    if block.language == "js" and not shutil.which("node"):
        pytest.skip(NO_NODE)
    check(clients, output_of(clients.start(block)))


@pytest.mark.parametrize(("block", "check"), RETRYING, ids=name_of)
def test_program_of_the_page_waits_while_the_service_is_busy(
    clients: Clients, block: Block, check: Callable[[Clients, str], None]
) -> None:
    if block.language == "js" and not shutil.which("node"):
        pytest.skip(NO_NODE)
    head = (
        f"POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {MAX_BODY_BYTES}\r\n\r\n"
    )
    with ExitStack() as unfinished:
        # Bodies that lack one byte each leave no room for another body.
        for _ in range(QUEUE):
            connection = unfinished.enter_context(connect_to(clients.server))
            connection.sendall(head.encode() + b"x" * (MAX_BODY_BYTES - 1))
        sample = {"files": {"image": PNG}, "headers": {"x-api-key": KEY}}
        wait_until(lambda: predict(clients.server, **sample).status_code == 503)
        before = metric_of(clients.server.client, REFUSED)
        process = clients.start(block)
        wait_until(lambda: metric_of(clients.server.client, REFUSED) > before)
    check(clients, output_of(process))


def test_both_modules_of_the_page_are_used() -> None:
    assert [block.language for block, _ in RETRYING] == ["python", "js"]


@pytest.mark.slow("it starts a browser, as the tests of the page do")
@pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs Debian's chromium-driver")
def test_page_of_another_origin_shows_the_answer(clients: Clients) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=clients.folder)
    address = ("127.0.0.1", int(clients.origin.rpartition(":")[2]))
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    with (
        http.server.ThreadingHTTPServer(address, handler) as site,
        webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser,
    ):
        threading.Thread(target=site.serve_forever, daemon=True).start()
        browser.get(f"{clients.origin}/page.html")
        browser.find_element(By.NAME, "image").send_keys(str(clients.folder / "seven.png"))
        browser.find_element(By.NAME, "text").send_keys("NUN")
        browser.find_element(By.ID, "key").send_keys(KEY)
        browser.find_element(By.TAG_NAME, "button").click()
        output = browser.find_element(By.ID, "answer")
        WebDriverWait(browser, 30, 0.05).until(lambda _: output.text)
        expected = clients.answer(image=PNG, text="NUN")
        assert output.text == f"{expected['label']}, {100 * expected['confidence']:.1f} %"
        site.shutdown()


def test_table_of_errors_has_every_code_with_its_statuses() -> None:
    documented: dict[str, set[int]] = {}
    for codes, statuses in re.findall(r"^\| (`.+?) \| ([\d, ]+) \|", PAGE, re.M):
        for code in re.findall(r"`(\w+)`", codes):
            documented[code] = set(map(int, re.findall(r"\d+", statuses)))
    for error in HttpError:
        assert error.status in documented[error.code], error.name
    used = {error.code for error in HttpError}
    assert set(documented) == used

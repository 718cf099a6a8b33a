"""The page in a real browser: headless Chromium, which cannot reach any other host."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.media import PNG, WAV, to_base64
from tests.serving.page.page_bundle import add_examples

KEY = "a-key-of-the-page-0123456789"
WAIT_SECONDS = 30
SENT, RECEIVED = "Network.requestWillBeSent", "Network.responseReceived"

if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("needs Debian's chromium and chromium-driver", allow_module_level=True)
pytest.importorskip("gradio")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from serving.page.answer import percent_text  # noqa: E402


@pytest.fixture(scope="module")
def server(
    tiny_bundle: Path, open_server: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    bundle = add_examples(tiny_bundle, tmp_path_factory.mktemp("bundle") / "page")
    # Two workers share the requests of a page, so none may keep what another needs.
    with open_server(bundle, ui=1, workers=2, api_keys=KEY) as server:
        server.wait_until_ready()
        server.client.headers["x-api-key"] = KEY
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    driver.set_window_size(1400, 1000)
    yield driver
    driver.quit()


ANSWER = "return document.querySelector('#answer .dimml-answer').innerText"
ROWS = """
  const rows = [...document.querySelectorAll('#answer .dimml-modalities tbody tr')];
  const texts = rows.map((row) => [...row.cells].map((cell) => cell.innerText.trim()));
  return Object.fromEntries(texts.map(([name, ...others]) => [name, others]));
"""
DRAWING = "return document.querySelector('#canvas-image canvas').toDataURL('image/png')"


class Page:
    """What a person does on the page."""

    def __init__(self, browser: Any, server: Any) -> None:
        self.browser, self.server = browser, server
        url = str(server.client.base_url)
        # The browser remembers the password, as it does after its own dialogue.
        browser.get(url.replace("http://", f"http://user:{KEY}@") + "/theme.css")
        browser.get(url)
        self.find("#predict")

    def find(self, selector: str) -> Any:
        """Return the first element of a selector, once it is there."""
        return self.wait(lambda: self.browser.find_elements(By.CSS_SELECTOR, selector))[0]

    def wait(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, WAIT_SECONDS, 0.05).until(lambda _: condition())

    def write(self, text: str) -> None:
        self.find("#text textarea").send_keys(text)

    def upload(self, name: str, path: Path, shown: str) -> None:
        """Upload a file, and wait until the page shows it in an element of a selector."""
        self.find(f"#{name} input[type=file]").send_keys(str(path))
        self.find(f"#{name} {shown}")

    def draw(self) -> str:
        """Draw two strokes on the canvas and return its data URL."""
        self.find("#draw-image button").click()
        canvas = self.find("#canvas-image canvas")
        self.wait(canvas.is_displayed)
        before = self.browser.execute_script(DRAWING)
        strokes = ActionChains(self.browser, duration=50)
        strokes.move_to_element_with_offset(canvas, -60, -80).click_and_hold()
        strokes.move_by_offset(120, 0).move_by_offset(-80, 160).release().perform()
        assert self.browser.execute_script(DRAWING) != before
        return str(self.browser.execute_script(DRAWING))

    def predict(self) -> str:
        """Choose Predict and return the text of the answer."""
        return self.answer_after(self.find("#predict").click)

    def switch(self, name: str) -> str:
        """Tick or untick a modality and return the text of the answer."""
        return self.answer_after(self.find(f"#use-{name} input").click)

    def answer_after(self, act: Callable[[], Any]) -> str:
        before = self.browser.execute_script(ANSWER)
        act()
        self.wait(lambda: self.browser.execute_script(ANSWER) != before)
        return str(self.browser.execute_script(ANSWER))

    @property
    def rows(self) -> dict[str, list[str]]:
        """For each modality: what it says, how sure, its weight, and the answer without it."""
        return dict(self.browser.execute_script(ROWS))

    def assert_shows(self, **sample: str) -> None:
        """Check the answer of the page against that of the API."""
        expected = self.server.client.post("/predict?explain=1", json=sample).json()
        text = self.browser.execute_script(ANSWER)
        assert text.startswith(expected["label"])
        for name, one in expected["modalities"].items():
            shown = self.rows[name]
            if not one["present"]:
                assert shown[0] in ("absent", "switched off")
                continue
            assert shown[:3] == [
                one["label"],
                *map(percent_text, (one["confidence"], one["weight"])),
            ]
            without = expected["without"].get(name)
            assert shown[3].startswith(without["label"] if without else "none")


@pytest.fixture
def page(browser: Any, server: Any) -> Page:
    return Page(browser, server)


def test_drawing_recording_and_text_are_predicted(page: Page, tmp_path: Path) -> None:
    recording = tmp_path / "tone.wav"
    recording.write_bytes(WAV)
    sample = {"text": "seven", "audio": to_base64(WAV), "image": page.draw()}
    page.upload("audio", recording, "#waveform")
    page.write("seven")
    page.predict()
    page.assert_shows(**sample)
    # Each modality that is switched off falls back to the others.
    for name in ("audio", "image"):
        page.switch(name)
        assert page.rows[name] == ["switched off"]
        del sample[name]
        page.assert_shows(**sample)
    assert "no_modality" in page.switch("text")
    page.switch("audio")
    page.assert_shows(audio=to_base64(WAV))


def test_broken_file_is_an_error_like_that_of_the_api(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(PNG[:60])
    page.upload("image", broken, "img")
    page.write("seven")
    text = page.predict()
    error = page.server.client.post("/predict", json={"image": to_base64(PNG[:60])}).json()["error"]
    assert text == f"image: {error['message']} {error['code']}"
    assert page.find("#answer [role=alert]").is_displayed()
    page.switch("image")
    page.assert_shows(text="seven")


def test_example_fills_the_page_and_is_predicted(page: Page) -> None:
    page.switch("text")
    examples = page.wait(
        lambda: page.browser.find_elements(By.CSS_SELECTOR, ".gallery-item, .dataset button")
    )
    assert [example.text for example in examples] == ["label one", "label seven <b>"]
    page.answer_after(examples[1].click)
    assert page.find("#text textarea").get_property("value") == "seven"
    page.assert_shows(text="seven")


def test_recording_of_the_microphone_is_predicted(page: Page) -> None:
    page.find("#audio [aria-label='Record audio']").click()
    for button in ("#audio .record-button", "#audio .stop-button"):
        found = page.find(button)
        page.wait(found.is_displayed)
        # The fake microphone beeps every second.
        ActionChains(page.browser).pause(1).click(found).perform()
    page.find("#audio #waveform")
    page.predict()
    assert len(page.rows["audio"]) == 4
    assert page.rows["image"] == ["absent"]


def test_page_works_by_keyboard(page: Page) -> None:
    field = page.find("#text textarea")
    page.write("seven")
    reached = field
    for _ in range(10):
        reached.send_keys(Keys.TAB)
        reached = page.browser.switch_to.active_element
        if reached.get_attribute("id") == "predict":
            break
    page.answer_after(lambda: reached.send_keys(Keys.ENTER))
    page.assert_shows(text="seven")


def test_inputs_have_names_for_a_screen_reader(page: Page) -> None:
    unnamed = page.browser.execute_script("""
        return [...document.querySelectorAll('input, textarea, button, canvas')]
          .filter((one) => one.offsetParent && one.type !== 'file')
          .filter((one) => !(one.innerText || one.ariaLabel || one.title || one.labels?.length))
          .map((one) => one.outerHTML.slice(0, 120))
    """)
    assert unnamed == []
    assert page.browser.execute_script("return document.documentElement.lang")


def test_page_fits_a_phone(page: Page) -> None:
    page.write("seven")
    page.predict()
    page.browser.set_window_size(400, 900)
    try:
        width = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.browser.execute_script(width) <= 0
        assert page.find("#predict").is_displayed()
    finally:
        page.browser.set_window_size(1400, 1000)


def test_page_calls_no_other_host(page: Page) -> None:
    page.browser.get_log("performance")
    page = Page(page.browser, page.server)
    page.write("seven")
    page.predict()
    events = [json.loads(e["message"])["message"] for e in page.browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"] == SENT]
    foreign = [url for url in sent if httpx.URL(url).host not in ("127.0.0.1", "")]
    assert len(sent) > 10
    assert foreign == []
    answers = [e["params"]["response"] for e in events if e["method"] == RECEIVED]
    failed = [one["url"] for one in answers if one["status"] >= 400]
    # A browser fetches the manifest of a page without the password.
    assert {httpx.URL(url).path for url in failed} <= {"/manifest.json"}

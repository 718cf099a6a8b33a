"""Take the picture of the web page that the README shows.

Run `python -m benchmarks.page_picture`; it needs the bundle of `make serve` with its examples,
Debian's `chromium` and `chromium-driver`, and the package selenium. It serves the bundle, chooses
an example, switches the audio off, and writes `docs/images/page.png`.
"""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.options import benchmark_parser
from dimml.machine import SOURCE_ROOT

PICTURE = SOURCE_ROOT / "docs" / "images" / "page.png"
SIZE = (1200, 1170)
START_SECONDS = 60


@contextmanager
def served(bundle: Path) -> Iterator[str]:
    """Serve a bundle for the block and return its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dimml", "serve", str(bundle), "--port", str(port)]
    service = subprocess.Popen([*command, "--workers", "1", "--ui"], cwd=SOURCE_ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _is_ready(url):
            if service.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the service is not ready")
            time.sleep(0.2)
        yield url
    finally:
        service.terminate()
        service.wait()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def open_browser(size: tuple[int, int]) -> Any:
    """Start a headless Chromium."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options, service)
    browser.set_window_size(*size)
    return browser


def take_picture(browser: Any, url: str) -> bytes:
    """Choose the first example, switch the audio off, and return a screenshot."""
    from selenium.webdriver.common.by import By

    browser.implicitly_wait(START_SECONDS)
    browser.get(url)
    browser.find_element(By.XPATH, "//button[contains(., 'label ')]").click()
    browser.find_element(By.CSS_SELECTOR, "#answer .dimml-label")
    browser.find_element(By.CSS_SELECTOR, "#audio #waveform")
    browser.find_element(By.CSS_SELECTOR, "#use-audio input").click()
    browser.find_element(By.CSS_SELECTOR, "#answer .dimml-absent")
    time.sleep(1)  # until the waveform is drawn
    return bytes(browser.get_screenshot_as_png())


def main() -> None:
    """Write the picture."""
    options = benchmark_parser(__doc__, "bundle").parse_args()
    with served(options.bundle) as url:
        browser = open_browser(SIZE)
        try:
            content = take_picture(browser, url)
        finally:
            browser.quit()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    # 64 colours are enough for a page, in a third of the bytes.
    Image.open(io.BytesIO(content)).convert("RGB").quantize(64).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()

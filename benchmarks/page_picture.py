"""Take the picture of the web page that the README shows.

Run `python -m benchmarks.page_picture`; it needs the bundle of `make serve` with its examples,
Debian's `chromium` and `chromium-driver`, and the package selenium. It serves the bundle, chooses
an example, switches the audio off, and writes `docs/images/page.png`.
"""

from __future__ import annotations

import io
import shutil
import time
from typing import Any

from PIL import Image

from benchmarks.options import benchmark_parser
from dimml.machine import SOURCE_ROOT
from serving.demo import START_SECONDS, served

PICTURE = SOURCE_ROOT / "docs" / "images" / "page.png"
SIZE = (1200, 1170)


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
    with served(options.bundle, "--ui") as client:
        browser = open_browser(SIZE)
        try:
            content = take_picture(browser, str(client.base_url))
        finally:
            browser.quit()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    # 64 colours are enough for a page, in a third of the bytes.
    Image.open(io.BytesIO(content)).convert("RGB").quantize(64).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()

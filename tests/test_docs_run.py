"""The blocks of the documentation, run page by page as a reader would.

All blocks of commands and of Python of a page run in order in one folder, with the data that the
page takes for granted. A block with a comment `<!-- not run: REASON -->` before it is left out: its
commands are only parsed, in `tests/test_docs_blocks.py`. The pages that train or serve are run with
`make slow` only. What the commands print is not compared with what the pages show, except
for files.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.doc_blocks import PAGES, ROOT, Block, all_blocks, blocks_of
from tests.serving.conftest import free_port

PORT = "3000"
"""The port of the documentation, which a test replaces by a free one."""
SECONDS_TO_START = 180
slow = pytest.mark.slow("its commands train or serve")


def is_run(block: Block) -> bool:
    return block.language in ("sh", "python") and not block.excuse


class Reader:
    """Follows a page in a folder.

    Attributes:
        folder: The current folder of the commands.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port = str(free_port())
        self._services: list[subprocess.Popen[bytes]] = []
        # The commands of this environment come first, and use this checkout.
        self._variables = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "DIMML_PROVIDERS": "cpu",
        }

    def follow(self, page: Path) -> None:
        """Write the files that a page shows, and run its blocks."""
        for block in blocks_of(page):
            if block.title:
                self._take_file(block, block.title)
            elif is_run(block) and block.text.startswith("dimml serve "):
                self.serve(shlex.split(block.text)[2])
            elif is_run(block):
                self._run(block)

    def serve(self, bundle: object) -> None:
        """Start a service and wait until it is ready."""
        command = ["dimml", "serve", str(bundle), "--port", self._port, "--workers", "1"]
        log = (self.folder / "service.log").open("wb")
        service = subprocess.Popen(
            command, cwd=self.folder, env=self._variables, stdout=log, stderr=subprocess.STDOUT
        )
        self._services.append(service)
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline and service.poll() is None:
            try:
                with urllib.request.urlopen(f"http://localhost:{self._port}/readyz"):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise AssertionError((self.folder / "service.log").read_text())

    def stop(self) -> None:
        """Stop the services that were started."""
        for service in self._services:
            service.terminate()
            service.wait(timeout=30)

    def _take_file(self, block: Block, name: str) -> None:
        """Write a file that a page gives, or compare it with the file that a command wrote."""
        file = self.folder / name
        if file.exists():
            assert file.read_text() == block.text, f"{block}: {name} is not what the page shows"
        else:
            file.write_text(block.text)

    def _run(self, block: Block) -> None:
        text = block.text.replace(f"localhost:{PORT}", f"localhost:{self._port}")
        program = ["bash", "-euo", "pipefail"] if block.language == "sh" else [sys.executable]
        done = subprocess.run(
            [*program, "-c", text],
            cwd=self.folder,
            env=self._variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}: {done.stdout}\n{done.stderr}"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.stop()


def write_products(folder: Path) -> None:
    """Write a table of products with photos and titles, such as the pages speak of."""
    random = np.random.default_rng(0)
    rows = ["title,photo,category"]
    for number in range(64):
        category = ("shoes", "bags")[number % 2]
        pixels = random.integers(0, 100, (24, 24, 3), np.uint8)
        pixels[..., 2 * (number % 2)] += 150
        PIL.Image.fromarray(pixels).save(folder / f"{number}.jpg")
        rows.append(f"{category} of style {number // 2},{number}.jpg,{category}")
    (folder / "products.csv").write_text("\n".join(rows) + "\n")
    (folder / "shoe.jpg").write_bytes((folder / "0.jpg").read_bytes())


def nothing(reader: Reader, bundle: Path) -> None:
    """The page makes its own data."""


def products(reader: Reader, bundle: Path) -> None:
    write_products(reader.folder)


def table_and_bundle(reader: Reader, bundle: Path) -> None:
    (reader.folder / "BUNDLE").symlink_to(bundle)
    (reader.folder / "INPUT").mkdir()
    (reader.folder / "INPUT" / "table.csv").write_text("text\nseven\nthree\n")


def service(reader: Reader, bundle: Path) -> None:
    reader.serve(bundle)


Prepare = Callable[[Reader, Path], None]
RUN_PAGES: dict[str, tuple[Prepare, bool]] = {
    "README.md": (products, True),
    "docs/inputs.md": (service, True),
    "docs/scoring.md": (table_and_bundle, False),
    "docs/tables.md": (products, True),
    "docs/tutorial.md": (nothing, True),
}
"""The pages with blocks that run: what prepares the data they take for granted, and slowness."""


def cases() -> list[Any]:
    return [
        pytest.param(page, prepare, id=page, marks=[slow] if is_slow else [])
        for page, (prepare, is_slow) in RUN_PAGES.items()
    ]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("page", "prepare"), cases())
def test_blocks_of_a_page_run_in_order(
    reader: Reader, tiny_bundle: Path, page: str, prepare: Prepare
) -> None:
    prepare(reader, tiny_bundle)
    reader.follow(ROOT / page)


def test_every_block_is_run_or_excused() -> None:
    pages = {
        page.relative_to(ROOT).as_posix() for page in PAGES if any(map(is_run, blocks_of(page)))
    }
    # `tests/serving/test_clients.py` runs the blocks of that page against one service.
    assert pages == {*RUN_PAGES, "docs/clients.md"}


def test_excuse_stands_before_a_block_that_could_run() -> None:
    excused = [block for block in all_blocks() if block.excuse]
    assert {block.language for block in excused} <= {"sh", "python"}
    comments = [re.findall(r"^ *<!-- not run:", page.read_text(), re.MULTILINE) for page in PAGES]
    assert len(excused) == sum(map(len, comments))


def test_failing_command_fails_the_page(reader: Reader, tmp_path: Path) -> None:
    page = ROOT / "docs" / "nowhere.md"
    block = Block(page, 1, "sh", None, "dimml inspect no-bundle | head\n", None)
    with pytest.raises(AssertionError, match="is not a bundle"):
        reader._run(block)


def test_file_that_differs_from_the_page_fails_the_page(reader: Reader) -> None:
    block = Block(ROOT / "docs" / "nowhere.md", 1, "yaml", "a.yaml", "a: 1\n", None)
    reader._take_file(block, "a.yaml")
    reader._take_file(block, "a.yaml")
    (reader.folder / "a.yaml").write_text("a: 2\n")
    with pytest.raises(AssertionError, match="is not what the page shows"):
        reader._take_file(block, "a.yaml")

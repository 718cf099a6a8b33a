"""The messages on the page of troubleshooting are those that the program prints.

Each section of the page quotes one message, in which "…" stands for a part that differs. A function
of this file, registered with the title of the section, makes the program print it.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dimml.bundle import Bundle
from dimml.cli import main
from dimml.errors import DimmlError, InputError
from dimml.modalities import formats
from dimml.modality_specs import build_kind
from dimml.runtime import providers
from serving.cli import _check_address
from serving.http.admission import Admission
from serving.http.errors import HttpError, input_error_body
from serving.offline.workspace import Job, Workspace
from serving.settings import Settings
from tests.conftest import OpenClient
from tests.doc_blocks import ROOT
from train.pretrained.folder import find_folder
from train.run import RUN, check_folder

PAGE = ROOT / "docs" / "troubleshooting.md"
PHOTOS_RECIPE = """
name: products
data: {table: products.csv, label: category}
modalities: {photo: image, title: text}
"""


@dataclass(frozen=True)
class Desk:
    """What the cases work with. The current folder is empty at first."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    bundle: Path
    open_client: OpenClient

    def dimml(self, *arguments: str) -> str:
        """Run a command in this process and return what it prints to standard error."""
        self.monkeypatch.setattr("sys.argv", ["dimml", *arguments])
        with pytest.raises(SystemExit):
            main()
        return self.capsys.readouterr().err

    def error(self, *arguments: str) -> str:
        """Run a command that fails, and return its error."""
        return "Error: " + self.dimml(*arguments).rpartition("Error: ")[2]


Case = Callable[[Desk], str]
CASES: dict[str, Case] = {}


def case(title: str) -> Callable[[Case], Case]:
    def register(function: Case) -> Case:
        CASES[title] = function
        return function

    return register


def error_of(call: Callable[[], object]) -> str:
    """Return the line that the command line prints for the error of a call."""
    with pytest.raises(DimmlError) as raised:
        call()
    return f"Error: {raised.value}"


def write_table(*lines: str, encoding: str = "utf-8") -> None:
    Path("products.csv").write_text("\n".join(lines) + "\n", encoding)


def write_recipe(text: str = PHOTOS_RECIPE) -> None:
    Path("products.yaml").write_text(text)


@case("A package is not installed")
def _(desk: Desk) -> str:
    code = (
        "import sys; sys.modules['yaml'] = None; sys.argv = ['dimml', 'train', 'products.yaml']\n"
        "from dimml.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stderr


@case("A pretrained model cannot be downloaded")
def _(desk: Desk) -> str:
    desk.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    desk.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(Path.cwd()))
    return error_of(lambda: find_folder("openai/clip-vit-base-patch32"))


@case("The label is in doubt")
def _(desk: Desk) -> str:
    rows = [f"a cup of tea number {n},{'xyz'[n % 3]},{'AB'[n % 2]}" for n in range(30)]
    write_table("title,shelf,brand", *rows)
    return desk.error("init", "products.csv")


@case("No column is a modality")
def _(desk: Desk) -> str:
    write_table("photo,category", *(f"{n},{'AB'[n % 2]}" for n in range(30)))
    return desk.error("init", "products.csv")


@case("The table is not UTF-8")
def _(desk: Desk) -> str:
    write_table("title,category", "a cup,mug", encoding="utf-16")
    return desk.error("init", "products.csv")


@case("A line has too many cells")
def _(desk: Desk) -> str:
    write_table("title,photo,category", "a cup,1.png,mug", "a cup, blue,2.png,mug")
    return desk.error("init", "products.csv")


@case("Files do not exist")
def _(desk: Desk) -> str:
    write_table("photo,category", *(f"shop/{n}.png,{'AB'[n % 2]}" for n in range(30)))
    warnings = desk.dimml("init", "products.csv", "products.yaml")
    return next(line for line in warnings.splitlines() if "do not exist" in line)


@case("A column is missing")
def _(desk: Desk) -> str:
    write_table("Photo,title,category", *(f"{n}.png,a cup,{'AB'[n % 2]}" for n in range(30)))
    write_recipe(PHOTOS_RECIPE.replace("category}", "category, split: {validation: 0.2}}"))
    return desk.error("check", "products.yaml")


@case("The recipe has an unknown key")
def _(desk: Desk) -> str:
    write_recipe(PHOTOS_RECIPE + "training: {epoch: 5}\n")
    return desk.error("check", "products.yaml")


@case("There is no validation split")
def _(desk: Desk) -> str:
    rows = [f"a cup of tea,,{'AB'[n % 2]},{('train', 'test')[n % 3 > 1]}" for n in range(30)]
    write_table("title,photo,category,split", *rows)
    write_recipe()
    return desk.error("check", "products.yaml")


@case("The run exists already")
def _(desk: Desk) -> str:
    folder = Path("runs/products/run")
    folder.mkdir(parents=True)
    (folder / RUN).touch()
    return error_of(lambda: check_folder(folder, "", "", resume=False))


@case("A run is resumed with other settings")
def _(desk: Desk) -> str:
    folder = Path("runs/products/run")
    folder.mkdir(parents=True)
    (folder / "last.ckpt").touch()
    (folder / "recipe.yaml").write_text("name: products\n")
    return error_of(lambda: check_folder(folder, "name: other\n", "", resume=True))


@case("A run is not a bundle")
def _(desk: Desk) -> str:
    return desk.error("predict", "runs/products/run", "--title", "a cup")


@case("The port is in use")
def _(desk: Desk) -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        return error_of(lambda: _check_address("127.0.0.1", port)).replace(str(port), "3000")


@case("401: other machines are refused")
def _(desk: Desk) -> str:
    refusal = Admission(Settings()).refuse({}, ("10.0.0.5", 50_000))
    assert refusal is not None
    return bytes(refusal.body).decode()


@case("413: the request is too large")
def _(desk: Desk) -> str:
    with desk.open_client(desk.bundle) as client:
        return client.post("/predict", files={"image": bytes(20_000_001)}).text


@case("415: a picture of a phone is refused")
def _(desk: Desk) -> str:
    desk.monkeypatch.setattr(formats, "is_installed", lambda package: False)
    desk.monkeypatch.setattr(formats, "register_heif", lambda: False)
    manifest = Bundle.load(desk.bundle).manifest
    kind = build_kind("image", manifest.modalities["image"], {}, None)
    with pytest.raises(InputError) as raised:
        kind.decode(b"\0\0\0\x18ftypheic\0\0\0\0heic" + bytes(100))
    return input_error_body(raised.value).decode().replace('"image"', '"photo"')


@case("503: too many requests")
def _(desk: Desk) -> str:
    return HttpError.OVERLOADED.body().decode()


@case("The GPU is not found")
def _(desk: Desk) -> str:
    # The driver of a machine with a GPU is hidden.
    desk.monkeypatch.setattr(providers, "CUDA_DRIVER", "libcuda.so.1.hidden")
    desk.monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: [providers.CUDA, providers.CPU]
    )
    error = error_of(lambda: providers.choose_provider("cuda"))
    return error.replace("libcuda.so.1.hidden", "libcuda.so.1")


@case("Scores of another job are in the way")
def _(desk: Desk) -> str:
    settings: dict[str, Any] = {
        "bundle": "products@0123456789ab",
        "tables": {},
        "columns": {},
        "keep": {},
        "on_unreadable": "error",
        "provider": "cpu",
        "threads": 1,
        "part_rows": 10_000,
        "window_rows": 64,
    }
    workspace = Workspace(Path("scores"))
    workspace.folder.mkdir()
    workspace.prepare(Job(**settings, probabilities=False), overwrite=False)
    other = Job(**settings, probabilities=True)
    return error_of(lambda: workspace.prepare(other, overwrite=False))


def sections() -> dict[str, str]:
    """Return the titles and texts of the numbered sections of the page."""
    return dict(re.findall(r"^### \d+\. (.+)\n((?:(?!##).*\n)*)", PAGE.read_text(), re.MULTILINE))


def test_page_has_twenty_numbered_sections() -> None:
    numbers = re.findall(r"^### (\d+)\. ", PAGE.read_text(), re.MULTILINE)
    assert [int(number) for number in numbers] == list(range(1, 21))
    assert list(sections()) == list(CASES)


@pytest.mark.parametrize("title", CASES)
def test_quoted_message_is_what_the_program_prints(
    title: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle: Path,
    open_client: OpenClient,
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = CASES[title](Desk(monkeypatch, capsys, tiny_bundle, open_client))
    (quoted,) = re.findall(r"^```text\n(.+?)\n```$", sections()[title], re.MULTILINE | re.DOTALL)
    pattern = ".*".join(map(re.escape, quoted.strip().split("…")))
    assert re.fullmatch(pattern, printed.strip(), re.DOTALL), printed

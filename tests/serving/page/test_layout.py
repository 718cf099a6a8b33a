"""The inputs of the page: which components a bundle gets, and how their values become a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dimml import Predictor
from serving.capacity import Capacity
from serving.http.openapi import describe, sample_limits
from serving.settings import Settings

pytest.importorskip("gradio")

from serving.page.inputs import ModalityInput, canvas_colours, read_value
from serving.page.layout import build_page, read_sample
from tests.serving.media import PNG


def components(bundle: Path) -> dict[str, str]:
    """Return the kind of each named component of a bundle's page."""
    settings = Settings()
    predictor = Predictor.load(bundle, "cpu", limits=sample_limits(settings))
    capacity = Capacity("cpu", workers=1, threads=1, max_batch=1, queue=1)

    async def predict(*_: Any) -> dict[str, Any]:
        return {}

    page = build_page(predictor.bundle, describe(predictor, settings, capacity), predict)
    ids = {str(block.elem_id): block.get_block_name() for block in page.blocks.values()}
    return {name: kind for name, kind in ids.items() if name != "None"}


def test_inputs_follow_the_names_of_a_bundle(free_names_bundle: Path) -> None:
    assert (
        components(free_names_bundle).items()
        >= {
            "front": "image",
            "canvas-front": "html",
            "use-front": "checkbox",
            "rear": "image",
            "note": "textbox",
        }.items()
    )


def test_modality_of_several_frames_takes_several_files(frames_bundle: Path) -> None:
    found = components(frames_bundle)
    assert found["clip"] == "file"
    assert "canvas-clip" not in found


def test_column_of_two_modalities_has_an_input_of_its_own(video_bundle: Path) -> None:
    found = components(video_bundle)
    assert [found[name] for name in ("clip", "pictures", "motion")] == ["file"] * 3
    assert (found["sound"], found["use-clip"]) == ("audio", "checkbox")


def test_modality_that_is_switched_off_is_sent_as_an_empty_field() -> None:
    clip, sound = (ModalityInput(name, (None,), Any) for name in ("clip", "sound"))
    sample, off = read_sample([clip, sound], [[], True, None, False])
    assert (sample, off) == ({"sound": ""}, ["sound"])


def test_values_are_read_from_the_component_that_has_one(tmp_path: Path) -> None:
    path = tmp_path / "stored.png"
    path.write_bytes(PNG)
    file = {"path": str(path), "orig_name": "photo.png"}
    url = "data:image/png;base64,aGk="
    assert read_value([None, url]) == [("drawing.png", b"hi")]
    assert read_value([file, None]) == [("photo.png", PNG)]
    assert read_value([[file, {"path": str(path)}]]) == [("photo.png", PNG), ("stored.png", PNG)]
    assert read_value(["text"]) == "text"
    assert read_value([None, ""]) is None
    # The API says what is wrong with it.
    broken = "data:image/png;base64,!!"
    assert read_value([None, broken]) == [("drawing.png", broken.encode())]
    # What looks like a drawing is text in a text box.
    assert read_value([url]) == url


def test_canvas_has_the_colours_of_the_examples(tmp_path: Path) -> None:
    from PIL import Image

    for name, grey in (("dark", 0), ("light", 255)):
        Image.new("L", (8, 8), grey).save(tmp_path / f"{name}.png")
    assert canvas_colours([tmp_path / "dark.png"]) == ("#000000", "#ffffff")
    assert canvas_colours([tmp_path / "light.png"]) == ("#ffffff", "#000000")
    assert canvas_colours([]) == ("#ffffff", "#000000")

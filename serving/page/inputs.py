"""The inputs of the page: for each modality, components that follow its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from serving.http.decoding import decode_base64

_CANVAS_PIXELS = 280
_FOLDER = Path(__file__).parent
_FILE_HINTS = {"image": "a video or pictures, in order", "flow": "pictures u, v, u, v, in order"}


@dataclass(frozen=True)
class ModalityInput:
    """The components of one modality.

    Attributes:
        name: The modality.
        components: Components of which at most one has a value, in the order of their values.
        examples: Whether an example fills the component, for each component.
        switch: The box that leaves the modality out while it is not ticked.
    """

    name: str
    components: Sequence[Any]
    switch: gr.Checkbox
    examples: Sequence[bool] = field(default=(True,))


def build_input(
    name: str, spec: Mapping[str, Any], pictures: Sequence[Path], max_characters: int
) -> ModalityInput:
    """Create the components of a modality in the current Gradio context.

    Args:
        name: The modality.
        spec: Its entry in the answer of `GET /bundle`.
        pictures: Example files of the modality.
        max_characters: Characters of a text.
    """
    preprocessing = spec["preprocessing"]
    with gr.Column(min_width=260):
        switch = gr.Checkbox(
            label=f"Use {name}", value=True, container=False, elem_id=f"use-{name}"
        )
        if spec["kind"] == "text":
            text = gr.Textbox(
                label=name, info=spec["input"], lines=2, max_length=max_characters, elem_id=name
            )
            return ModalityInput(name, (text,), switch)
        if preprocessing.get("frames") is not None or spec["kind"] not in ("audio", "image"):
            hint = _FILE_HINTS.get(spec["kind"], spec["input"])
            files = gr.File(label=f"{name}: {hint}", file_count="multiple", elem_id=name)
            return ModalityInput(name, (files,), switch)
        if spec["kind"] == "audio":
            audio = gr.Audio(
                label=name,
                sources=["upload", "microphone"],
                type="filepath",
                editable=False,
                buttons=[],
                elem_id=name,
            )
            return ModalityInput(name, (audio,), switch)
        picture = gr.Image(
            label=name,
            sources=["upload", "webcam", "clipboard"],
            type="filepath",
            height=240,
            buttons=[],
            elem_id=name,
        )
        canvas = _build_canvas(name, *canvas_colours(pictures))
        # What was given last counts, so each of the two empties the other.
        canvas.input(None, outputs=[picture], js="() => null", queue=False)
        picture.input(None, outputs=[canvas], js="() => null", queue=False)
        return ModalityInput(name, (picture, canvas), switch, (True, False))


def _build_canvas(name: str, paper: str, ink: str) -> Any:
    with gr.Accordion("Draw instead", open=False, elem_id=f"draw-{name}"):
        return gr.HTML(
            value=None,
            html_template=(
                f'<canvas width="{_CANVAS_PIXELS}" height="{_CANVAS_PIXELS}" role="img" '
                f'aria-label="Canvas to draw {name}; a file can be uploaded instead"></canvas>'
                '<button type="button">Clear the drawing</button>'
            ),
            js_on_load=(_FOLDER / "canvas.js").read_text(),
            elem_id=f"canvas-{name}",
            elem_classes="dimml-canvas",
            paper=paper,
            ink=ink,
        )


def canvas_colours(pictures: Sequence[Path]) -> tuple[str, str]:
    """Return the colours of paper and ink, which follow the corners of example pictures."""
    corners: list[int] = []
    for path in pictures:
        # A HEIC needs an extra that a service may lack.
        try:
            with Image.open(path) as picture:
                grey = np.asarray(picture.convert("L"))
        except OSError:
            continue
        corners += grey[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()
    is_dark = bool(corners) and float(np.median(corners)) < 128
    return ("#000000", "#ffffff") if is_dark else ("#ffffff", "#000000")


def read_value(values: Sequence[Any]) -> list[tuple[str, bytes]] | str | None:
    """Return what the components of one modality hold.

    Args:
        values: The value of each component: text, a file that Gradio has stored, a list of such
            files, or the data URL of a drawing.

    Returns:
        Text; or the name and content of each file; None if all components are empty.
    """
    for place, value in enumerate(values):
        if not value:
            continue
        if isinstance(value, str):
            # A canvas stands behind the component for pictures; text has one component.
            return value if place == 0 else [("drawing.png", _decode_drawing(value))]
        files = value if isinstance(value, list) else [value]
        return [_read_file(file) for file in files]
    return None


def _decode_drawing(url: str) -> bytes:
    """Return the PNG of a data URL; content that is not base64 as it is, for the API to reject."""
    try:
        return decode_base64(url)
    except ValueError:
        return url.encode()


def _read_file(file: Mapping[str, Any]) -> tuple[str, bytes]:
    path = Path(file["path"])
    return file.get("orig_name") or path.name, path.read_bytes()

"""The page: inputs that follow the bundle, a switch per modality, examples, and the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from dimml.bundle import Bundle
from serving.page.answer import render_answer
from serving.page.inputs import ModalityInput, build_input, read_value

Value = list[tuple[str, bytes]] | str
Predict = Callable[[Mapping[str, Value], gr.Request], Awaitable[dict[str, Any]]]
"""Sends a sample to the API and returns the body of its answer."""


def build_page(bundle: Bundle, description: Mapping[str, Any], predict: Predict) -> gr.Blocks:
    """Build the page of a bundle.

    Args:
        bundle: The bundle, whose examples the page offers.
        description: The answer of `GET /bundle`.
        predict: Answers a sample for the client of a request.
    """
    specs: Mapping[str, Any] = description["modalities"]
    fields = {**_shared_fields(description), **specs}
    sets = description["prediction_sets"]
    coverage = sets and sets["coverage"]
    uncertified = sets["uncertified"] if sets else {}
    page: gr.Blocks
    with gr.Blocks(
        title=f"dimml: {description['name']}",
        analytics_enabled=False,
    ) as page:
        gr.HTML(_introduction(description["name"], specs, description["labels"]), padding=False)
        with gr.Row():
            inputs = [
                build_input(
                    name,
                    spec,
                    _example_files(bundle, name),
                    description["limits"]["characters"],
                )
                for name, spec in fields.items()
            ]
        answer: Any = gr.HTML(
            render_answer(None, list(specs), coverage), elem_id="answer", render=False
        )

        async def on_predict(request: gr.Request, *values: Any) -> str:
            sample, off = read_sample(inputs, values)
            body = await predict(sample, request)
            return render_answer(body, list(specs), coverage, off, uncertified)

        components = [c for one in inputs for c in (*one.components, one.switch)]
        event: dict[str, Any] = {
            "fn": on_predict,
            "inputs": components,
            "outputs": [answer],
            # The API reads and judges the files.
            "preprocess": False,
            # Gradio's queue lives in one process, and a service may have several workers.
            "queue": False,
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        if bundle.manifest.examples:
            _add_examples(bundle, inputs, event)
        gr.Button("Predict", variant="primary", elem_id="predict").click(**event)
        answer.render()
        for one in inputs:
            one.switch.input(**event)
            if fields[one.name]["kind"] == "text":
                one.components[0].submit(**event)
    return page


def read_sample(
    inputs: Sequence[ModalityInput], values: Sequence[Any]
) -> tuple[dict[str, Value], list[str]]:
    """Return the sample that the page holds, and the modalities that are switched off.

    Args:
        inputs: The inputs of the page.
        values: The values of their components and switches, in order.
    """
    sample: dict[str, Value] = {}
    off = []
    remaining = iter(values)
    for one in inputs:
        value = read_value([next(remaining) for _ in one.components])
        if not next(remaining):
            off.append(one.name)
            # An empty field also keeps a shared file from its modality.
            sample[one.name] = ""
        elif value is not None:
            sample[one.name] = value
    return sample, off


def _shared_fields(description: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the fields that stand for several modalities, in the form of a modality's entry."""
    return {
        field: {
            "kind": "shared",
            "input": f"one file for {' and '.join(names)}",
            "preprocessing": {},
        }
        for field, names in description["shared_fields"].items()
        if description["modalities"][names[0]]["kind"] != "text"
    }


def _introduction(name: str, specs: Mapping[str, Any], labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:12]) + (f" and {len(labels) - 12} more" if len(labels) > 12 else "")
    text = (
        f"Give any of {', '.join(specs)}; leave out what you do not have. Labels: {shown}. "
        "Untick a modality to see the answer without it."
    )
    return Markup("<h1>{}</h1><p>{}</p>").format(name, text)


def _example_files(bundle: Bundle, name: str) -> list[Path]:
    values = [example.values.get(name, ()) for example in bundle.manifest.examples]
    return [bundle.path / file for v in values if not isinstance(v, str) for file in v]


def _add_examples(
    bundle: Bundle, inputs: Sequence[ModalityInput], event: Mapping[str, Any]
) -> None:
    filled = [one.components[0] for one in inputs]
    rows = [
        [_example_value(bundle.path, example.values.get(one.name), one) for one in inputs]
        for example in bundle.manifest.examples
    ]
    labels = [f"label {example.label}" for example in bundle.manifest.examples]
    examples = gr.Examples(
        rows, filled, label="Examples", example_labels=labels, api_visibility="private"
    )
    # Gradio leaves a component as it is for which no example has a value.
    others = [
        one.components[0]
        for one, values in zip(inputs, zip(*rows, strict=True), strict=True)
        if all(value is None for value in values)
    ]
    others += [c for one in inputs for c in one.components[1:]]
    switches = [one.switch for one in inputs]
    emptied = [None] * len(others) + [True] * len(switches)
    examples.load_input_event.then(
        lambda: emptied, outputs=[*others, *switches], queue=False, api_visibility="private"
    ).then(**event)


def _example_value(folder: Path, value: Any, one: ModalityInput) -> Any:
    if value is None or isinstance(value, str):
        return value
    paths = [str(folder / file) for file in value]
    return paths if isinstance(one.components[0], gr.File) else paths[0]

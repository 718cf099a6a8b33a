"""What the ONNX graphs of a bundle may hold, checked before onnxruntime is given one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message

from dimml.errors import BundleError

DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
"""The operator sets of the ONNX standard: whatever `dimml export` writes needs no other."""

_WITH_DOMAIN = (onnx.OperatorSetIdProto, onnx.NodeProto, onnx.FunctionProto)


def check_graph(path: Path) -> None:
    """Refuses a graph that reaches outside its own file or the ONNX standard.

    External data would let a graph read any file, or memory, as its weights, past the checksums of
    the bundle; operators of other domains are code that the bundle does not hold.

    Raises:
        BundleError: the file is no ONNX model, has external data, or needs another domain.
    """
    problem = _problem(path)
    if problem:
        raise BundleError(f"{path} {problem}: export the bundle again with `dimml export`")


def messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all within it, at any depth; tensors come whole."""
    yield message
    if isinstance(message, onnx.TensorProto):
        # Has no message of interest inside, and its data need not be copied.
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if isinstance(value, Message) else value:
                yield from messages(item)


def _problem(path: Path) -> str | None:
    try:
        model = onnx.load_model(path, load_external_data=False)
    except DecodeError as error:
        return f"is not an ONNX model ({error})"
    # An empty file is a valid message, and so is some text.
    if not model.graph.node or not model.opset_import:
        return "is not an ONNX model (it has no graph)"
    return next(filter(None, map(_message_problem, messages(model))), None)


def _message_problem(message: Any) -> str | None:
    if isinstance(message, onnx.TensorProto):
        if message.external_data or message.data_location == onnx.TensorProto.EXTERNAL:
            return f"keeps its tensor {message.name!r} outside the file (external data)"
        return None
    domain = message.domain if isinstance(message, _WITH_DOMAIN) else ""
    if domain in DOMAINS:
        return None
    return (
        f"needs operators of the domain {domain!r}, and a bundle's are those of the ONNX standard "
        f"alone ({', '.join(filter(None, DOMAINS))})"
    )

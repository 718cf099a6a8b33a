"""Validation of the ONNX graphs of a bundle before onnxruntime loads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message

from dimml.errors import BundleError

STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
"""Operator domains of the ONNX standard."""

RUNTIME_DOMAIN = "com.microsoft"
RUNTIME_OPERATORS = ("MatMulIntegerToFloat",)
"""Operators of onnxruntime itself that `dimml export` uses: products of 8-bit integers."""

_MESSAGES_WITH_DOMAIN = (onnx.OperatorSetIdProto, onnx.NodeProto, onnx.FunctionProto)


def check_graph(path: Path) -> None:
    """Reject a graph that refers to other files or uses operators outside the ONNX standard.

    External data lets a graph read any file or memory as its weights, which the checksums of the
    bundle do not cover. Operators of other domains are code that is not part of the bundle.

    Raises:
        BundleError: If the file is not an ONNX model, has external data or needs another domain.
    """
    if problem := _problem(path):
        raise BundleError(f"{path} {problem}: export the bundle again with `dimml export`")


def messages(message: Any) -> Iterator[Any]:
    """Yield a protobuf message and all messages inside, at any depth. Tensors are not entered."""
    yield message
    if isinstance(message, onnx.TensorProto):
        # A tensor holds no message to check, and listing its fields would copy its data.
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
    # Protobuf also parses an empty file and some texts as a model.
    if not model.graph.node or not model.opset_import:
        return "is not an ONNX model (it has no graph)"
    return next(filter(None, map(_message_problem, messages(model))), None)


def _message_problem(message: Any) -> str | None:
    if isinstance(message, onnx.TensorProto):
        if message.external_data or message.data_location == onnx.TensorProto.EXTERNAL:
            return f"stores its tensor {message.name!r} outside the file (external data)"
        return None
    domain = message.domain if isinstance(message, _MESSAGES_WITH_DOMAIN) else ""
    if domain in STANDARD_DOMAINS or _is_runtime_operator(message, domain):
        return None
    accepted = ", ".join(filter(None, STANDARD_DOMAINS))
    return f"needs operators of the domain {domain!r}; accepted are only those of {accepted}"


def _is_runtime_operator(message: Any, domain: str) -> bool:
    if domain != RUNTIME_DOMAIN:
        return False
    # An import alone adds nothing: each node that uses it is checked.
    imported = isinstance(message, onnx.OperatorSetIdProto)
    return imported or getattr(message, "op_type", "") in RUNTIME_OPERATORS

"""Write torch modules as ONNX graphs, and a trained model as a bundle."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dimml.bundle import (
    CLASSIFIER,
    MANIFEST,
    Conformal,
    Manifest,
    ModalitySpec,
    file_entry,
    new_bundle,
)
from dimml.modalities import Audio, Kind, Text
from dimml.nn.model import MultimodalModel

Check = Callable[[Path, Manifest], None]


def write_bundle(
    path: Path,
    model: MultimodalModel,
    kinds: Mapping[str, Kind],
    specs: Mapping[str, ModalitySpec],
    assets: Mapping[str, Mapping[str, bytes]],
    *,
    name: str,
    labels: tuple[str, ...],
    created: str,
    provenance: Mapping[str, Any],
    conformal: Conformal | None = None,
    check: Check | None = None,
) -> None:
    """Export a model as a bundle, whole or not at all.

    Args:
        path: The bundle's folder.
        model: A trained and calibrated model.
        kinds: Modality to kind, in slot order.
        specs: Modality to its specification, whose `graph` and `assets` name the files to write.
        assets: Modality to the content of its assets.
        name: The bundle's name.
        labels: Labels in the order of the classifier's outputs.
        created: Date and time, ISO 8601.
        provenance: What the bundle was made from.
        conformal: Thresholds of the prediction sets.
        check: Called with the temporary folder; an exception stops the export.
    """
    model.eval()
    with new_bundle(path) as folder:
        for slot, (modality, kind) in enumerate(kinds.items()):
            spec = specs[modality]
            export_encoder(model.encoders[slot], kind, folder / spec.graph)
            for asset, file in spec.assets.items():
                (folder / file).write_bytes(assets[modality][asset])
        export_classifier(model, folder / CLASSIFIER)
        manifest = Manifest(
            name=name,
            created=created,
            labels=labels,
            feature_dim=model.feature_dim,
            modalities=dict(specs),
            provenance=dict(provenance),
            conformal=conformal,
            files={file.name: file_entry(file) for file in sorted(folder.iterdir())},
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        if check is not None:
            check(folder, manifest)


def export_encoder(encoder: nn.Module, kind: Kind, path: Path) -> None:
    """Export one encoder: from the kind's inputs to `features` float32 [N, D].

    The batch axis is dynamic, and so are the token axis of text and the frame axis of audio of
    variable length.
    """
    item = kind.preprocess(kind.decode(kind.example()))
    inputs = kind.collate([item, item])
    batch = torch.export.Dim("batch", min=1)
    axes: dict[str, dict[int, Any]] = {name: {0: batch} for name in inputs}
    if isinstance(kind, Text):
        tokens = torch.export.Dim("tokens", min=1, max=kind.config.max_length)
        axes = {name: {0: batch, 1: tokens} for name in inputs}
    elif isinstance(kind, Audio) and kind.config.seconds is None:
        axes = {"power": {0: batch, 2: torch.export.Dim.AUTO}}
    tensors = tuple(
        torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in kind.input_names
    )
    shapes = tuple(axes[name] for name in kind.input_names)
    _export(encoder, tensors, shapes, path, kind.input_names, ["features"])


def export_classifier(model: MultimodalModel, path: Path) -> None:
    """Export the classifier with its fusion, see `CertaintyFusion`."""
    slots = len(model.modalities)
    tensors = (torch.randn(2, slots, model.feature_dim), torch.ones(2, slots, dtype=torch.bool))
    batch = torch.export.Dim("batch", min=1)
    outputs = ["probabilities", "weights", "modality_logits"]
    _export(model.fusion, tensors, ({0: batch}, {0: batch}), path, ("features", "present"), outputs)


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    axes: tuple[dict[int, Any], ...],
    path: Path,
    input_names: tuple[str, ...],
    output_names: list[str],
) -> None:
    # The exporter logs every step; `export.parity` checks its result.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            inputs,
            str(path),
            dynamo=True,
            dynamic_shapes=axes,
            input_names=list(input_names),
            output_names=output_names,
            external_data=False,
            verbose=False,
        )

"""Torch modules to ONNX graphs, and a trained model to a bundle."""

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
    """Exports a model as a bundle, whole or not at all.

    Args:
        path: the bundle's folder.
        model: trained and calibrated.
        kinds: modality to kind, in slot order.
        specs: modality to its specification; its `graph` and `assets` name the files written.
        assets: modality to the content of its assets.
        name: the bundle's name.
        labels: in the order of the classifier's outputs.
        created: date and time, ISO 8601.
        provenance: what the bundle was made from.
        conformal: prediction-set thresholds.
        check: called with the folder before it takes its name; what it raises stops the export.
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
    """One encoder: the kind's inputs to `features` float32 [N, D], with a dynamic batch axis.

    Text also has a dynamic token axis, and audio of variable length a dynamic frame axis.
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
    """The shared classifier with its fusion, see `CertaintyFusion`."""
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
    # The exporter tells its own story at length; what matters is checked on the graph.
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

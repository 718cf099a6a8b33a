"""Write PyTorch modules as ONNX graphs, and a trained model as a bundle."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dimml.bundle import (
    CLASSIFIER,
    MANIFEST,
    Conformal,
    Example,
    Manifest,
    file_entry,
    new_bundle,
)
from dimml.modalities import Audio, Kind, Text
from dimml.modality_specs import ModalitySpec
from dimml.nn.model import MultimodalModel
from dimml.table import TableLayout
from train.choice import interaction_shares

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
    table: TableLayout | None = None,
    examples: Sequence[Example] = (),
    files: Mapping[str, bytes] | None = None,
    check: Check | None = None,
) -> None:
    """Export a model as a bundle; write nothing on an error.

    Args:
        path: Folder of the bundle.
        model: A trained and calibrated model.
        kinds: Modality to kind, in slot order.
        specs: Modality to specification, whose `graph` and `assets` name the files to write.
        assets: Modality to the content of its assets.
        name: Name of the bundle.
        labels: Labels, in the order of the classifier's outputs.
        created: Date and time, ISO 8601.
        provenance: Recipe, seed, data and versions that the model was trained with.
        conformal: Thresholds of the prediction sets.
        table: The columns of the tables that the model was trained on.
        examples: Samples for people who try the bundle, whose files are in `files`.
        check: Called with the complete temporary folder and its manifest before the folder is
            renamed to `path`; an exception stops the export.
    """
    model.eval()
    with new_bundle(path) as folder:
        for slot, (modality, kind) in enumerate(kinds.items()):
            spec = specs[modality]
            export_encoder(model.encoders[slot], kind, folder / spec.graph)
            _write_files(folder, {f: assets[modality][asset] for asset, f in spec.assets.items()})
        _write_files(folder, files or {})
        export_classifier(model, folder / CLASSIFIER)
        manifest = Manifest(
            name=name,
            created=created,
            labels=labels,
            feature_dim=model.feature_dim,
            late_dim=model.fusion.feature_dim,
            modalities=dict(specs),
            provenance=dict(provenance),
            conformal=conformal,
            table=table or TableLayout(),
            interaction=interaction_shares(model.fusion, model.modalities)[1],
            examples=tuple(examples),
            files={file.name: file_entry(file) for file in sorted(folder.iterdir())},
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        if check is not None:
            check(folder, manifest)


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def export_encoder(encoder: nn.Module, kind: Kind, path: Path) -> None:
    """Export one encoder, which maps the inputs of its kind to `features` float32 [N, D].

    The batch axis is dynamic, and so are the tokens of text and the frames of audio of variable
    length.
    """
    encoder = without_constant_gates(encoder)
    item = kind.preprocess(kind.decode(kind.example()))
    inputs = kind.collate([item, item])
    batch = torch.export.Dim("batch", min=1)
    axes: dict[str, dict[int, Any]] = {name: {0: batch} for name in inputs}
    if isinstance(kind, Text):
        tokens = torch.export.Dim("tokens", min=1, max=kind.config.max_length)
        axes = {name: {0: batch, 1: tokens} for name in inputs}
    elif isinstance(kind, Audio) and kind.config.seconds is None:
        axes = {
            name: {0: batch, array.ndim - 1: torch.export.Dim.AUTO}
            for name, array in inputs.items()
        }
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in kind.input_names
    }
    _export(encoder, tensors, axes, ["features"], path)


def without_constant_gates(encoder: nn.Module) -> nn.Module:
    """Return an encoder without the squeeze-and-excitation layers that multiply by exactly 1.

    EfficientNet-Lite has no such layers, but the class that holds it does, with weights of 0. In
    int8 they would cost as much as all other layers.
    """
    constant = [name for name, module in encoder.named_modules() if _multiplies_by_one(module)]
    if constant:
        encoder = copy.deepcopy(encoder)
    for name in constant:
        encoder.set_submodule(name, nn.Identity())
    return encoder


def _multiplies_by_one(module: Any) -> bool:
    # By its name, because importing the class takes seconds.
    if type(module).__name__ != "EfficientNetSqueezeExciteLayer" or module.expand.weight.any():
        return False
    return bool(module.expand.bias.sigmoid().eq(1).all())


def export_classifier(model: MultimodalModel, path: Path) -> None:
    """Export the classifier and its fusion, see `CertaintyFusion.forward`."""
    slots = len(model.modalities)
    inputs = {
        "features": torch.randn(2, slots, model.feature_dim),
        "present": torch.ones(2, slots, dtype=torch.bool),
    }
    batch = {0: torch.export.Dim("batch", min=1)}
    outputs = ["probabilities", "weights", "modality_logits"]
    _export(model.fusion, inputs, dict.fromkeys(inputs, batch), outputs, path)


def _export(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    axes: Mapping[str, dict[int, Any]],
    output_names: list[str],
    path: Path,
) -> None:
    # The exporter logs and warns about each step; `export.parity` checks the exported graph.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=True,
            dynamic_shapes=tuple(axes[name] for name in inputs),
            input_names=list(inputs),
            output_names=output_names,
            external_data=False,
            verbose=False,
        )

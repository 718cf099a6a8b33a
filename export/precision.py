"""Bundles of a lower precision, written only if each subset keeps its accuracy.

Only the encoders change. The classifier stays in fp32, because it takes little time and memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dimml.bundle import MANIFEST, Bundle, Manifest, file_entry
from dimml.errors import PrecisionError
from dimml.machine import available_cores
from dimml.predictor import Predictor
from dimml.runtime.providers import choose_provider
from dimml.table import Row
from export.half import halve_graph
from export.products import quantize_products
from export.quantize import (
    CalibrationSamples,
    is_transformer,
    quantize_graph,
)
from train.markdown import table
from train.split_answers import answer_subsets

MAX_DROP = 0.005
"""The largest validation accuracy that a subset may lose: half a point."""

_ROUNDING = 1e-9
"""Accuracies are quotients, so a drop of exactly `MAX_DROP` may round to slightly more."""


def convert_bundle(
    source: Path,
    folder: Path,
    precision: str,
    calibration: Sequence[Row],
    validation: Sequence[Row],
) -> dict[str, Any]:
    """Write a bundle in another precision, and compare it with the fp32 bundle.

    Args:
        source: The fp32 bundle.
        folder: An empty folder to write to, which the caller discards after an error.
        precision: "int8" or "fp16".
        calibration: Training rows; the first `CALIBRATION_SAMPLES` of each modality set the ranges
            of int8.
        validation: Rows to compare on.

    An encoder that loses more than `MAX_DROP` alone stays in fp32, if another does not.

    Returns:
        The comparison, which the manifest keeps as `provenance["quantization"]`.

    Raises:
        PrecisionError: If a subset loses more than `MAX_DROP`, or a modality has no sample for
            the calibration or the comparison.
    """
    bundle = Bundle.load(source)
    for name in bundle.manifest.files:
        shutil.copy(source / name, folder / name)
    counts = _convert_graphs(bundle, folder, precision, calibration)
    manifest = _write_manifest(folder, bundle.manifest, precision, bundle.manifest.provenance)
    # int8 is the same on every machine. float16 is meant for GPUs, which round sums in their own
    # way, so it is measured on a GPU if there is one.
    provider = choose_provider("auto") if precision == "fp16" else "cpu"
    measured = compare_bundles(source, folder, precision, validation, provider)
    kept = inaccurate_modalities(measured, precision, list(manifest.modalities))
    if 0 < len(kept) < len(manifest.modalities):
        manifest = _restore_fp32(source, folder, manifest, kept)
        measured = compare_bundles(source, folder, precision, validation, provider)
    check_accuracy(measured, precision, list(manifest.modalities))
    report = {
        "split": "validation",
        "provider": provider,
        "calibration_samples": counts,
        "kept_in_fp32": kept,
        "bytes": {
            spec.graph: {
                m.precision: m.files[spec.graph].bytes for m in (bundle.manifest, manifest)
            }
            for spec in manifest.modalities.values()
        },
        "subsets": measured,
    }
    _write_manifest(folder, manifest, precision, {**manifest.provenance, "quantization": report})
    return report


def _convert_graphs(
    bundle: Bundle, folder: Path, precision: str, calibration: Sequence[Row]
) -> dict[str, int]:
    """Write the encoders in another precision; return how many samples calibrated each."""
    counts = {}
    for name, kind in bundle.kinds().items():
        graph = bundle.manifest.modalities[name].graph
        if precision == "fp16":
            halve_graph(bundle.path / graph, folder / graph)
        elif bundle.manifest.modalities[name].pretrained and is_transformer(bundle.path / graph):
            quantize_products(bundle.path / graph, folder / graph)
        else:
            reader = CalibrationSamples(kind, calibration)
            quantize_graph(bundle.path / graph, folder / graph, reader)
            counts[name] = reader.count
    return counts


def _restore_fp32(source: Path, folder: Path, manifest: Manifest, names: Sequence[str]) -> Manifest:
    """Put the fp32 graphs of these modalities back, and return the new manifest."""
    for name in names:
        graph = manifest.modalities[name].graph
        shutil.copy(source / graph, folder / graph)
    return _write_manifest(folder, manifest, manifest.precision, manifest.provenance)


def compare_bundles(
    fp32: Path, other: Path, precision: str, rows: Sequence[Row], provider: str = "cpu"
) -> dict[str, dict[str, Any]]:
    """Measure the accuracy of two bundles on each subset of modalities that some row has.

    Args:
        fp32: The fp32 bundle.
        other: The same bundle in another precision.
        precision: The precision of `other`.
        rows: Labelled samples.
        provider: The execution provider.

    Returns:
        Subset name to `samples`, the accuracy of each bundle (under "fp32" and `precision`), and
        `max_difference`, the largest absolute difference of a probability.
    """
    before, after = (
        answer_subsets(
            Predictor.load(path, provider, threads=available_cores()), rows, f"evaluating {name}"
        )
        for name, path in (("fp32", fp32), (precision, other))
    )
    measured = {}
    for subset, answers in before.subsets.items():
        labels, probabilities = before.labels[answers.having], answers.probabilities
        changed = after.subsets[subset].probabilities
        measured[subset] = {
            "samples": len(labels),
            "fp32": float((probabilities.argmax(axis=1) == labels).mean()),
            precision: float((changed.argmax(axis=1) == labels).mean()),
            "max_difference": float(np.abs(probabilities - changed).max()),
        }
    return measured


def check_accuracy(
    measured: dict[str, dict[str, Any]], precision: str, modalities: Sequence[str]
) -> None:
    """Reject a comparison in which a subset loses more than `MAX_DROP`.

    Args:
        measured: The result of `compare_bundles`.
        precision: The precision that was compared with fp32.
        modalities: All modalities of the bundle.

    Raises:
        PrecisionError: If a subset loses too much accuracy, or no row has one of the modalities.
    """
    if missing := [name for name in modalities if name not in measured]:
        raise PrecisionError(
            f"{missing[0]}: no row of the validation split has this modality, so {precision} "
            "cannot be compared with fp32; nothing was written; export with --precision fp32"
        )

    drops = {subset: _drop(row, precision) for subset, row in measured.items()}
    worst = max(drops, key=lambda subset: drops[subset])
    if drops[worst] > MAX_DROP + _ROUNDING:
        raise PrecisionError(
            f"{worst}: {precision} loses {100 * drops[worst]:.2f} points of validation accuracy "
            f"({measured[worst]['fp32']:.4f} to {measured[worst][precision]:.4f}), over the limit "
            f"of {100 * MAX_DROP:g}; nothing was written; export with --precision fp32"
        )


def inaccurate_modalities(
    measured: dict[str, dict[str, Any]], precision: str, modalities: Sequence[str]
) -> list[str]:
    """Return the modalities that lose more than `MAX_DROP` when they are alone."""
    return [
        name
        for name in modalities
        if name in measured and _drop(measured[name], precision) > MAX_DROP + _ROUNDING
    ]


def _drop(row: dict[str, Any], precision: str) -> float:
    # A NaN probability is no prediction, so the subset loses all of its accuracy.
    return float(row["fp32"] - row[precision]) if np.isfinite(row["max_difference"]) else 1.0


def report_text(report: dict[str, Any], precision: str) -> str:
    """Return the comparison as a Markdown table, followed by the sizes of the graphs."""
    header = ("subset", "samples", "fp32", precision, "max. difference of probabilities")
    keys = ("fp32", precision, "max_difference")
    rows = [
        [name, str(row["samples"]), *(f"{row[key]:.4f}" for key in keys)]
        for name, row in report["subsets"].items()
    ]
    lines = [table(header, rows)]
    lines += [
        f"{graph}: {size['fp32'] / 1e6:.2f} MB in fp32, {size[precision] / 1e6:.2f} MB in "
        f"{precision}"
        for graph, size in report["bytes"].items()
    ]
    lines += [
        f"{name} stays in fp32: in {precision} it loses more than {100 * MAX_DROP:g} points."
        for name in report["kept_in_fp32"]
    ]
    lines.append(f"Measured on the {report['provider'].upper()}.")
    return "\n".join(lines)


def _write_manifest(
    folder: Path, manifest: Manifest, precision: str, provenance: dict[str, Any]
) -> Manifest:
    """Write and return a manifest with the checksums of the files as they are now."""
    changed = manifest.model_copy(
        update={
            "precision": precision,
            "provenance": provenance,
            "files": {name: file_entry(folder / name) for name in manifest.files},
        }
    )
    (folder / MANIFEST).write_text(changed.model_dump_json(indent=2) + "\n")
    return changed

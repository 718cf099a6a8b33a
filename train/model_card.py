"""The model card of a bundle: its README.md, with the header that the Hugging Face Hub reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dimml.bundle import Bundle, Manifest
from dimml.errors import list_first
from train import markdown
from train.evaluate import subset_table
from train.shown_subsets import shown_subsets

SHOWN_LABELS = 100
"""Labels that a card lists; the manifest has all."""

_PIPELINE_TAGS = {
    "audio": "audio-classification",
    "image": "image-classification",
    "text": "text-classification",
    "flow": "video-classification",
}
"""The hub's task of a bundle with one modality. The hub has none for a classifier of several."""
_OTHER_TASK = "other"
_HUB_METRICS = {"accuracy": "accuracy", "macro_f1": "f1"}
"""Figures of an evaluation that the hub has a metric for, and the hub's name of it."""
_METRIC_NAMES = {"accuracy": "Accuracy", "macro_f1": "Macro-F1", "nll": "NLL", "ece": "ECE"}


def model_card(path: Path, report: dict[str, Any], license: str | None = None) -> str:
    """Return the content of the bundle's README.md.

    Args:
        path: Folder of the bundle.
        report: The document of `evaluation.json`.
        license: Licence of the bundle, as the hub abbreviates it; None leaves it out.
    """
    bundle = Bundle.load(path)
    manifest = bundle.manifest
    modalities = "\n".join(
        f"- `{n}`: {s.kind}, `{s.encoder}`" for n, s in manifest.modalities.items()
    )
    # `safe_dump` quotes whatever YAML would read as something else than text.
    header = yaml.safe_dump(
        hub_metadata(manifest, report, license), sort_keys=False, allow_unicode=True
    )
    return (
        f"---\n{header}---\n\n"
        f"# {bundle.id}\n\nMade {manifest.created} by dimml, in {manifest.precision}. Answers for "
        f"any non-empty subset of its modalities with one of {len(manifest.labels)} labels: "
        f"{list_first(manifest.labels, SHOWN_LABELS)}."
        f"\n\n## Modalities\n\n{modalities}\n\n{fusion_section(manifest.provenance.get('fusion'))}"
        f"## Evaluation\n\n{subset_table(report)}\n"
    )


def hub_metadata(manifest: Manifest, report: dict[str, Any], license: str | None) -> dict[str, Any]:
    """Return the metadata of the hub's model cards: the task, tags, and figures by subset."""
    kinds = sorted({spec.kind for spec in manifest.modalities.values()})
    several = len(manifest.modalities) > 1
    tag = None if several else _PIPELINE_TAGS[kinds[0]]
    shown = dict.fromkeys(shown_subsets(report["subsets"]).values())
    results = [
        _hub_result(manifest.name, tag or _OTHER_TASK, report["split"], subset, figures)
        for subset, figures in report["subsets"].items()
        if subset in shown
    ]
    metadata = {
        "library_name": "dimml",
        "license": license,
        "pipeline_tag": tag,
        "tags": ["onnx", *kinds, *(["multimodal", "missing-modality"] if several else [])],
        "metrics": list(_HUB_METRICS.values()),
        "model-index": [{"name": manifest.name, "results": results}],
    }
    return {key: value for key, value in metadata.items() if value is not None}


def _hub_result(
    name: str, task: str, split: str, subset: str, figures: dict[str, Any]
) -> dict[str, Any]:
    metrics = [
        {"type": _HUB_METRICS.get(key, key), "value": figures[key], "name": title}
        for key, title in _METRIC_NAMES.items()
    ]
    # The subset is the configuration of the data, by which the hub keeps results apart.
    dataset = {"type": name, "name": f"{name}, {subset}", "config": subset, "split": split}
    return {"task": {"type": task}, "dataset": dataset, "metrics": metrics}


def fusion_section(choice: dict[str, Any] | None) -> str:
    """Return how the modalities are joined, and what the alternatives gave on validation."""
    if not choice or not choice["validation"]:
        return ""
    shares = choice["shares"]
    lines = [f"Late fusion by the rule `{choice['rule']}`."]
    if shares:
        listed = markdown.short_list(f"{subset} {share:.2f}" for subset, share in shares.items())
        lines.append(
            f"An interaction head (`{choice['interaction']}`) sees all modalities together. Its "
            f"share of an answer: {listed}; no other subset has one."
        )
    else:
        lines.append("No interaction head takes part, because none lowered the NLL beyond noise.")
    rows = [
        (name, f"{one['nll']:.4f}", f"{one['accuracy']:.4f}")
        for name, one in choice["validation"].items()
    ]
    titles = ("fusion", "NLL", "accuracy")
    return (
        f"## Fusion\n\n{' '.join(lines)} Means over validation rows and their subsets, on rows "
        "that the calibration did not see (`interaction`: the rule with the head):\n\n"
        f"{markdown.table(titles, rows)}\n\n"
    )

"""Read what the folder of a pretrained model decides, and reject what cannot be right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from dimml.errors import RecipeError
from dimml.modalities import KINDS, KindConfig
from dimml.modalities.text import TOKENIZER
from dimml.nn.pretrained.backbone import Backbone, PretrainedSettings, load_backbone
from dimml.nn.pretrained.families import FAMILIES, UNKNOWN, Family
from dimml.progress import print_status
from train.pretrained import audio, images, text
from train.pretrained.folder import ModelFolder, find_folder
from train.pretrained.tuning import check_tuning
from train.recipe import ModalityConfig

_REQUIRED = {"audio": audio.REQUIRED, "image": images.REQUIRED, "text": text.REQUIRED}
_TOWERS = {
    "image": "vision_config",
    "text": "text_config",
    "audio": "audio_config",
}


@dataclass(frozen=True)
class PretrainedModel:
    """A pretrained model whose files were read and checked; its weights are not loaded yet.

    Attributes:
        settings: Everything that defines the backbone except its weights.
        preprocessing: Configuration of the kind.
        assets: Asset name of the kind to content.
        folder: The folder of the weights.
        modality: Name of the modality.
    """

    settings: PretrainedSettings
    preprocessing: Mapping[str, Any]
    assets: Mapping[str, bytes]
    folder: Path
    modality: str

    def identity(self) -> str:
        """Return a digest of the settings and of the weights."""
        digest = hashlib.sha256(self.settings.model_dump_json(exclude={"model"}).encode())
        for path in sorted(self.folder.glob("model*.safetensors")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def load(self) -> Backbone:
        """Load the backbone with its weights, see `load_backbone`."""
        try:
            return load_backbone(self.settings, self.folder)
        except RecipeError as error:
            raise RecipeError(f"modalities.{self.modality}: {error}") from error


def read_model(name: str, modality: ModalityConfig) -> PretrainedModel:
    """Read the pretrained model of a modality, and report what the recipe overrides.

    Raises:
        RecipeError: If the model cannot be read, or does not fit the recipe.
    """
    try:
        return _read(name, modality)
    except RecipeError as error:
        raise RecipeError(f"modalities.{name}: {error}") from error
    # The files of a model hold whatever its author wrote: numbers as text, lists for mappings.
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise RecipeError(
            f"modalities.{name}: the files of {modality.encoder.pretrained} hold a value of the "
            f"wrong type: {error}; download the model again"
        ) from error


def _read(name: str, modality: ModalityConfig) -> PretrainedModel:
    import transformers

    # Its warnings are about checkpoints in general; what matters here is checked below.
    silence: Any = transformers.logging.set_verbosity_error
    silence()
    encoder, kind = modality.encoder, modality.kind
    folder = find_folder(str(encoder.pretrained))
    config = _read_config(folder, kind)
    family = FAMILIES[kind].get(config["model_type"]) or _assume(name, kind, folder, config)
    if modality.tokenizer is not None:
        raise RecipeError(
            "`tokenizer` is set, but a pretrained model needs the tokenizer that it was trained "
            "with, which its folder holds; leave `tokenizer` out"
        )
    front_end: dict[str, Any] = {}
    assets: dict[str, bytes] = {}
    pooling = family.pooling
    if kind == "audio":
        own, front_end = audio.audio_preprocessing(folder, config, family)
    elif kind == "image":
        own = images.image_preprocessing(folder, config)
    else:
        own, assets[TOKENIZER] = text.text_preprocessing(folder, config)
        if encoder.pooling is None and family.front_end == "tokens" and pooling != "pooler":
            pooling = text.sentence_pooling(folder, pooling)
    if encoder.pooling is not None and encoder.pooling != pooling:
        accepted = (family.pooling, *family.poolings)
        if encoder.pooling not in accepted:
            raise RecipeError(
                f"encoder.pooling is {encoder.pooling}, but the features of a "
                f"{config['model_type']} can be: {', '.join(accepted)}"
            )
        print_status(f"{name}: pooling is {encoder.pooling}, as the recipe says, not {pooling}")
        pooling = encoder.pooling
    merged = _merge(name, folder, kind, own, modality.preprocessing)
    _check(kind, family, merged, own, config)
    settings = PretrainedSettings(
        model=folder.model,
        revision=folder.revision,
        kind=kind,
        config=config,
        front_end=front_end,
        pooling=pooling,
        masked=not merged.model_dump().get("pad_to_max", False),
    )
    check_tuning(settings, encoder)
    return PretrainedModel(settings, merged.model_dump(mode="json"), assets, folder.path, name)


def _read_config(folder: ModelFolder, kind: str) -> dict[str, Any]:
    """Return the configuration of the model, or of its tower for this kind, with all defaults."""
    import transformers

    own = folder.read_json("config.json")
    if own.get("auto_map") and own.get("model_type") not in transformers.CONFIG_MAPPING:
        raise RecipeError(f"{folder.model} needs code from its own folder, which is not run")
    try:
        config: Any = transformers.AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
    # Configuration classes raise many types of error for wrong values.
    except Exception as error:
        raise RecipeError(f"the config.json of {folder.model} cannot be read: {error}") from error
    if config.model_type == "siglip2":
        raise RecipeError(
            f"{folder.model} reads images of any shape (NaFlex); choose a SigLIP2 of fixed "
            "resolution, such as google/siglip2-base-patch16-224"
        )
    other = [k for k, families in FAMILIES.items() if config.model_type in families]
    if other and kind not in other:
        raise RecipeError(
            f"{folder.model} is a {config.model_type}, a model of {' and '.join(other)}, but the "
            f"modality is of kind {kind}"
        )
    tower = getattr(config, _TOWERS[kind], None)
    if tower is not None and config.model_type not in FAMILIES[kind]:
        raise RecipeError(f"{folder.model} is a {config.model_type} of several towers, unsupported")
    document: dict[str, Any] = (tower or config).to_dict()
    # The place of the folder would be another model to a cache, and tells about the machine.
    left_out = ("transformers_version", "architectures", "_name_or_path")
    return {key: value for key, value in document.items() if key not in left_out}


def _assume(name: str, kind: str, folder: ModelFolder, config: Mapping[str, Any]) -> Family:
    family = UNKNOWN[kind]
    print_status(
        f"{name}: warning: dimml does not know the model type {config['model_type']} of "
        f"{folder.model}; assumed: AutoModel loads it, its input is {family.front_end}, its "
        f"features are the {family.pooling} over positions, its attention exports as "
        f"{family.attention}. Compare its features with the model's own before you rely on them"
    )
    return family


def _merge(
    name: str, folder: ModelFolder, kind: str, own: Mapping[str, Any], recipe: Mapping[str, Any]
) -> KindConfig:
    """Return the model's preprocessing with what the recipe sets explicitly, and report that."""
    Config = KINDS[kind].Config  # noqa: N806
    try:
        defaults = Config.model_validate(own)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        raise RecipeError(
            f"the files of {folder.model} give the preprocessing a wrong value: "
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}; download the model again"
        ) from error
    alone = Config.model_validate(recipe)
    for key in _REQUIRED[kind]:
        before, after = getattr(defaults, key), getattr(alone, key)
        if key in recipe and before != after:
            raise RecipeError(
                f"preprocessing.{key} is {after}, but the model was trained with {before}; leave "
                "it out"
            )
    try:
        merged = Config.model_validate({**_without_conflicts(own, recipe), **recipe})
    except pydantic.ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(f"the preprocessing does not fit that of the model: {reason}") from error
    for key in recipe:
        before, after = getattr(defaults, key), getattr(merged, key)
        if before != after:
            print_status(
                f"{name}: {key} is {json.dumps(after)}, as the recipe says; the model's own is "
                f"{json.dumps(before)}"
            )
    return merged


def _without_conflicts(own: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out `resize_to` where the recipe decides how images are resized."""
    replaced = "size" in recipe or recipe.get("resize") not in (None, "crop")
    return {k: v for k, v in own.items() if not (k == "resize_to" and replaced)}


def _check(
    kind: str,
    family: Family,
    merged: Any,
    own: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    if kind == "image":
        images.check_size(merged.size, family, config)
    elif kind == "audio":
        audio.check_length(merged, own, family.front_end)
    else:
        text.check_tokens(merged.max_length, config)
        if merged.pad_to_max and merged.max_length != own["max_length"]:
            raise RecipeError(
                f"max_length is {merged.max_length}, but the model reads texts of exactly "
                f"{own['max_length']} tokens; leave `preprocessing.max_length` out"
            )

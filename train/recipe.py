"""The recipe: what a training run is made from, validated before any compute."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml

from dimml.bundle import ModalityName, reserved_name_problem
from dimml.errors import RecipeError
from dimml.modalities import KINDS
from dimml.samples import MAX_MODALITIES
from train.methods import METHODS, method_class

Positive = Annotated[float, pydantic.Field(gt=0)]
Fraction = Annotated[float, pydantic.Field(ge=0, lt=1)]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class EncoderConfig(_Model):
    """An encoder: see `dimml.nn.encoders.build_encoder`."""

    preset: Literal["small", "resnet18", "pretrained"] = "small"
    pretrained: str | None = None
    n_mels: Annotated[int, pydantic.Field(ge=4, le=512)] | None = 64
    dropout: Fraction = 0.1


class ModalityConfig(_Model):
    """One modality of a recipe.

    Attributes:
        kind: a key of `KINDS`.
        preprocessing: the kind's configuration.
        encoder: what encodes it; a word is short for that preset.
        tokenizer: for text, a `tokenizer.json`; None trains one on the training split.
        vocab_size: of a tokenizer trained here.
        augment: strength of the training augmentation, 0 for none.
    """

    kind: Literal["audio", "image", "text"]
    preprocessing: dict[str, Any] = {}
    encoder: EncoderConfig = EncoderConfig()
    tokenizer: Path | None = None
    vocab_size: Annotated[int, pydantic.Field(ge=32)] = 1000
    augment: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.5

    @pydantic.field_validator("encoder", mode="before")
    @classmethod
    def _preset_by_name(cls, value: Any) -> Any:
        return {"preset": value} if isinstance(value, str) else value

    @pydantic.field_validator("preprocessing")
    @classmethod
    def _valid_for_the_kind(
        cls, value: dict[str, Any], info: pydantic.ValidationInfo
    ) -> dict[str, Any]:
        # An invalid kind is an error of its own, and leaves nothing to check by.
        if "kind" in info.data:
            KINDS[info.data["kind"]].Config.model_validate(value)
        return value


class TrainingConfig(_Model):
    """How long and how hard; method.md's names.

    Attributes:
        epochs: passes over the training split.
        warm_up: epochs before the DUC loss joins.
        batch_size: samples per step.
        learning_rate: peak of a one-cycle schedule, AdamW.
        weight_decay: of AdamW.
        lambda_shared: weight of the shared classifier's cross-entropy.
        lambda_duc: weight of the DUC loss.
        duc_temperature: its temperature.
        normalize: whether its vectors are normalised.
        recompute_every: epochs between computations of the effective dimensions; None: once.
        workers: processes that augment and collate batches beside the training one.
        devices: GPUs, or without any processes, that share out each batch; the losses see all of
            it, so that batch normalisation alone tells it from one device.
        precision: of the encoders, as Lightning names it; the losses are in 32 bits.
    """

    epochs: Annotated[int, pydantic.Field(ge=1)] = 20
    warm_up: Annotated[int, pydantic.Field(ge=0)] = 8
    batch_size: Annotated[int, pydantic.Field(ge=2)] = 64
    learning_rate: Positive = 2e-3
    weight_decay: Annotated[float, pydantic.Field(ge=0)] = 1e-2
    lambda_shared: Annotated[float, pydantic.Field(ge=0)] = 1.0
    lambda_duc: Annotated[float, pydantic.Field(ge=0)] = 1.0
    duc_temperature: Positive = 10.0
    normalize: bool = False
    recompute_every: Annotated[int, pydantic.Field(ge=1)] | None = None
    workers: Annotated[int, pydantic.Field(ge=0)] = 0
    devices: Annotated[int, pydantic.Field(ge=1)] = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"

    @pydantic.field_validator("devices")
    @classmethod
    def _shares_the_batch(cls, value: int, info: pydantic.ValidationInfo) -> int:
        size = info.data.get("batch_size", value)
        if size % value or size // value < 2:
            raise ValueError(
                f"a batch of {size} cannot be shared out among {value} devices equally, two "
                "samples or more each; change batch_size"
            )
        return value


class Recipe(_Model):
    """A whole training run.

    Attributes:
        name: of the run and its bundle.
        data: the manifest (Parquet, CSV or JSON lines). As every path of a recipe and of `--set`,
            it is relative to the current folder.
        modalities: name to configuration; a word is short for that kind with its defaults.
        method: how it is trained, a key of `METHODS`.
        options: the method's own settings, see its file.
        feature_dim: D.
        seed: of everything random.
        coverage: of the prediction sets.
        training: the optimisation.
    """

    name: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
    data: Path
    modalities: Annotated[
        dict[ModalityName, ModalityConfig], pydantic.Field(min_length=1, max_length=MAX_MODALITIES)
    ]
    method: str = "dimml"
    options: dict[str, Any] = {}
    feature_dim: Annotated[int, pydantic.Field(ge=2)] = 128
    seed: Annotated[int, pydantic.Field(ge=0)] = 0
    coverage: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.9
    training: TrainingConfig = TrainingConfig()

    @pydantic.field_validator("modalities", mode="before")
    @classmethod
    def _kind_by_name(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: {"kind": v} if isinstance(v, str) else v for k, v in value.items()}

    @pydantic.field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        if value not in METHODS:
            raise ValueError(f"no method {value!r}; there are: {', '.join(METHODS)}")
        return value

    @pydantic.field_validator("options")
    @classmethod
    def _valid_for_the_method(
        cls, value: dict[str, Any], info: pydantic.ValidationInfo
    ) -> dict[str, Any]:
        # Only options that are given are worth importing the method for.
        if value and "method" in info.data:
            method_class(info.data["method"]).Options.model_validate(value)
        return value

    @pydantic.field_validator("modalities")
    @classmethod
    def _no_reserved_name(cls, value: dict[str, ModalityConfig]) -> dict[str, ModalityConfig]:
        for name in value:
            if why := reserved_name_problem(name, list(value)):
                raise ValueError(f"{name}: {why}")
        return value


def written(recipe: Recipe) -> dict[str, Any]:
    """A recipe as its file holds it.

    Settings that were added later are left out where they have their defaults, so that what was
    stopped before goes on.
    """
    document: dict[str, Any] = recipe.model_dump(mode="json")
    training = document["training"]
    for name in ("devices", "precision"):
        if training[name] == TrainingConfig.model_fields[name].default:
            del training[name]
    return document


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Reads and validates a recipe.

    Args:
        path: a YAML file.
        overrides: "key.key=value" settings that replace the file's, values in YAML.

    Raises:
        RecipeError: it cannot be read or is invalid; an unknown key names its nearest match.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values")
    for override in overrides or []:
        _override(document, override)
    try:
        return Recipe.model_validate(document)
    except pydantic.ValidationError as error:
        problems = [f"  {_problem(dict(problem), document)}" for problem in error.errors()]
        raise RecipeError("\n".join([f"{path} is not a valid recipe:", *problems])) from error


def _override(document: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override}: write key=value, such as training.epochs=5")
    *parents, last = key.split(".")
    place: Any = document
    for depth, parent in enumerate(parents, 1):
        if not isinstance(place, dict):
            break
        found = place.setdefault(parent, {})
        if isinstance(found, str) and (long := _long_form(parents[:depth], found)):
            place[parent] = found = long
        place = found
    if not isinstance(place, dict):
        raise RecipeError(f"--set {override}: {key} is not inside a mapping")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not YAML: {error}") from error


def _long_form(place: Sequence[str], word: str) -> dict[str, Any] | None:
    """What a word is short for at a place of the recipe."""
    match place:
        case ["modalities", _]:
            return {"kind": word}
        case ["modalities", _, "encoder"]:
            return {"preset": word}
    return None


def _problem(problem: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    place = problem["loc"]
    said = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = list(_model_at(place[:-1], document).model_fields)
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        said = f"unknown key; {hint}accepted: {', '.join(known)}"
    if place[-1] == "[key]":
        place = place[:-1]
        said = (
            "a name has a letter of a to z, then letters, digits and _, at most 32; "
            "give its column such a name too"
        )
    return f"{'.'.join(map(str, place))}: {said}"


def _model_at(place: Sequence[str | int], document: Mapping[str, Any]) -> type[pydantic.BaseModel]:
    """What is configured at a place of the recipe."""
    match place:
        case ["training"]:
            return TrainingConfig
        case ["modalities", _]:
            return ModalityConfig
        case ["modalities", _, "encoder"]:
            return EncoderConfig
        case ["modalities", name, "preprocessing"]:
            return KINDS[document["modalities"][name]["kind"]].Config
        case ["options"]:
            return method_class(document.get("method", "dimml")).Options
    return Recipe

"""The recipe: everything that defines a training run, validated before any computation."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml

from dimml.errors import RecipeError
from dimml.modalities import KINDS
from dimml.names import ModalityName, reserved_name_problem
from dimml.samples import MAX_MODALITIES
from dimml.table import TableLayout, TableSource
from train.data.augment import Augmentation
from train.data_config import COLUMN, RULE, DataConfig, SplitConfig
from train.encoder_config import EncoderConfig, RecipePart, expand_encoder
from train.methods import METHODS, method_class
from train.training_config import TrainingConfig


class ModalityConfig(RecipePart):
    """One modality of a recipe.

    Attributes:
        kind: A key of `KINDS`.
        column: Its column in the table; None if the column has the name of the modality.
        preprocessing: The configuration of the kind.
        encoder: The encoder. A string is short for a preset or for a pretrained model.
        tokenizer: A `tokenizer.json` for a text preset; None trains one on the training split.
        vocab_size: Vocabulary size of a tokenizer that is trained.
        augment: The random changes of training samples. A number is short for their strength.
    """

    kind: Literal["audio", "image", "text", "flow"]
    column: str | None = None
    preprocessing: dict[str, Any] = pydantic.Field(default_factory=dict)
    encoder: EncoderConfig = EncoderConfig(preset="small")
    tokenizer: Path | None = None
    vocab_size: Annotated[int, pydantic.Field(ge=32)] = 1000
    augment: Augmentation = Augmentation()

    @pydantic.field_validator("encoder", mode="before")
    @classmethod
    def _expand_encoder(cls, value: Any) -> Any:
        return expand_encoder(value) if isinstance(value, str) else value

    @pydantic.field_validator("augment", mode="before")
    @classmethod
    def _expand_augment(cls, value: Any) -> Any:
        return {"strength": value} if isinstance(value, int | float) else value

    @pydantic.field_validator("augment")
    @classmethod
    def _check_augment(cls, value: Augmentation, info: pydantic.ValidationInfo) -> Augmentation:
        if (value.crop or value.mirror) and info.data.get("kind") in ("audio", "text"):
            raise ValueError("crop and mirror are for pictures and flow; leave them out")
        return value

    @pydantic.field_validator("encoder")
    @classmethod
    def _check_encoder(cls, value: EncoderConfig, info: pydantic.ValidationInfo) -> EncoderConfig:
        if value.pretrained and info.data.get("kind") == "flow":
            raise ValueError("no pretrained model reads optical flow; use `small` or `resnet18`")
        return value

    @pydantic.field_validator("preprocessing")
    @classmethod
    def _check_preprocessing(
        cls, value: dict[str, Any], info: pydantic.ValidationInfo
    ) -> dict[str, Any]:
        # An invalid kind has an error of its own, and no configuration to check against.
        if "kind" in info.data:
            KINDS[info.data["kind"]].Config.model_validate(value)
        return value


class Recipe(RecipePart):
    """The settings of a training run.

    Attributes:
        name: The name of the run and of its bundle.
        data: The tables. A string is short for a table whose columns have the usual names.
        modalities: Names and configurations. A string is short for that kind with its defaults.
        method: The training method, a key of `METHODS`.
        options: The options of the method, see its file.
        feature_dim: D.
        seed: The seed of everything random.
        coverage: The coverage of the prediction sets.
        training: The settings of the optimisation.
    """

    name: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
    data: DataConfig
    modalities: Annotated[
        dict[ModalityName, ModalityConfig], pydantic.Field(min_length=1, max_length=MAX_MODALITIES)
    ]
    method: str = "dimml"
    options: dict[str, Any] = pydantic.Field(default_factory=dict)
    feature_dim: Annotated[int, pydantic.Field(ge=2)] = 128
    seed: pydantic.NonNegativeInt = 0
    coverage: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.9
    training: TrainingConfig = TrainingConfig()

    @pydantic.field_validator("data", mode="before")
    @classmethod
    def _expand_table(cls, value: Any) -> Any:
        return {"table": value} if isinstance(value, str | Path) else value

    @pydantic.field_validator("modalities", mode="before")
    @classmethod
    def _expand_kinds(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: {"kind": v} if isinstance(v, str) else v for k, v in value.items()}

    @pydantic.field_validator("modalities")
    @classmethod
    def _check_names(cls, value: dict[str, ModalityConfig]) -> dict[str, ModalityConfig]:
        for name in value:
            if why := reserved_name_problem(name, list(value)):
                raise ValueError(f"{name}: {why}")
        return value

    @pydantic.field_validator("method")
    @classmethod
    def _check_method(cls, value: str) -> str:
        if value not in METHODS:
            raise ValueError(f"no method {value!r}; choose one of: {', '.join(METHODS)}")
        return value

    @pydantic.field_validator("options")
    @classmethod
    def _check_options(cls, value: dict[str, Any], info: pydantic.ValidationInfo) -> dict[str, Any]:
        # Importing a method imports torch, so it waits until there are options to check.
        if value and "method" in info.data:
            method_class(info.data["method"]).Options.model_validate(value)
        return value

    @property
    def source(self) -> TableSource:
        """The tables and what their columns hold."""
        columns = {name: modality.column for name, modality in self.modalities.items()}
        columns |= self.data.columns
        other = {name: column for name, column in columns.items() if column and column != name}
        layout = TableLayout(columns=other, rule=self.data.rule, keep_na=self.data.keep_na)
        kinds = {name: modality.kind for name, modality in self.modalities.items()}
        return TableSource(self.data.table, kinds, layout)


class _RecipeLoader(yaml.SafeLoader):
    """Loads YAML and rejects a key that is given twice, of which YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = []
        for key, _ in node.value:
            if (name := self.construct_object(key, deep=True)) in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {name!r} is given twice; keep one of them",
                    problem_mark=key.start_mark,
                )
            seen.append(name)
        return super().construct_mapping(node, deep)


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: A YAML file.
        overrides: Settings "key.key=value", with values in YAML, that replace those of the file.

    Raises:
        RecipeError: If the file cannot be read or the recipe is invalid. The error of an unknown
            key names the nearest known key.
    """
    try:
        with path.open("rb") as file:
            document = yaml.load(file, _RecipeLoader)
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    except yaml.reader.ReaderError as error:
        raise RecipeError(
            f"{path}: byte {error.position} is not UTF-8 text; save the recipe in UTF-8"
        ) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values")
    for override in overrides or []:
        _override(document, override)
    try:
        return Recipe.model_validate(document)
    except pydantic.ValidationError as error:
        problems = [f"  {_describe(dict(problem), document)}" for problem in error.errors()]
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
        child = place.setdefault(parent, {})
        if isinstance(child, str | int | float) and (expanded := _expand(parents[:depth], child)):
            # An override inside a short form keeps what the short form says.
            place[parent] = child = expanded
        place = child
    if not isinstance(place, dict):
        raise RecipeError(f"--set {override}: {key} is not inside a mapping")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not YAML: {error}") from error


def _expand(place: Sequence[str], value: str | float) -> dict[str, Any] | None:
    """Return the mapping that a value abbreviates at a place of the recipe, if any."""
    match place, value:
        case ["data"], str():
            return {"table": value}
        case ["modalities", _], str():
            return {"kind": value}
        case ["modalities", _, "encoder"], str():
            return expand_encoder(value)
        case ["modalities", _, "augment"], int() | float():
            return {"strength": value}
    return None


def _describe(problem: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Return the place and the text of a validation error."""
    place = problem["loc"]
    if place[:2] == ("data", "split"):
        place = tuple(part for part in place if part not in (COLUMN, RULE))
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        accepted = list(_model_at(place[:-1], document).model_fields)
        near = difflib.get_close_matches(str(place[-1]), accepted, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        text = f"unknown key; {hint}accepted: {', '.join(accepted)}"
    if place[-1] == "[key]":
        place = place[:-1]
        text = (
            "a name starts with a letter of a to z, continues with letters, digits and _, and has "
            "at most 32 characters; rename the modality and its column"
        )
    return f"{'.'.join(map(str, place))}: {text}"


def _model_at(place: Sequence[str | int], document: Mapping[str, Any]) -> type[pydantic.BaseModel]:
    """Return the model that validates a place of the recipe."""
    match place:
        case ["data"]:
            return DataConfig
        case ["data", "split"]:
            return SplitConfig
        case ["training"]:
            return TrainingConfig
        case ["modalities", _]:
            return ModalityConfig
        case ["modalities", _, "encoder"]:
            return EncoderConfig
        case ["modalities", _, "augment"]:
            return Augmentation
        case ["modalities", name, "preprocessing"]:
            return KINDS[document["modalities"][name]["kind"]].Config
        case ["options"]:
            return method_class(document.get("method", "dimml")).Options
    return Recipe

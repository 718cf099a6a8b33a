"""The encoder of a modality in a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

PRESETS = ("small", "resnet18")

_PRETRAINED_DEFAULTS: dict[str, Any] = {
    "tune": "frozen",
    "pooling": None,
    "adapter": "auto",
    "views": 1,
    "learning_rate": None,
    "layer_decay": 0.9,
    "lora_rank": 8,
}
"""The settings of a pretrained encoder, and what they are unless a recipe sets them."""


class RecipePart(pydantic.BaseModel):
    """Base of the parts of a recipe, which are frozen and reject unknown keys."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class EncoderConfig(RecipePart):
    """The settings of an encoder: a preset that is trained from scratch, or a pretrained model.

    Attributes:
        preset: See `dimml.nn.encoders.build_encoder`; `small` unless a model is given.
        n_mels: Mel bands of an audio preset; None for a linear spectrogram.
        dropout: Dropout of a text preset.
        pretrained: Hub id (with an optional `@revision`) or folder of a pretrained model.
        tune: Which weights of a pretrained model are trained: none (`frozen`), the last two blocks
            (`last_2`), all (`full`), or low-rank updates (`lora`).
        pooling: From tokens or positions to one vector; None for the model's own convention.
        adapter: What maps the pooled features to D: a `linear` layer, an `mlp`, or what validation
            says (`auto`). `auto` is `linear` unless the model is frozen.
        views: For a frozen model, how many augmented versions of each training sample are encoded.
            1 encodes the sample as it is.
        learning_rate: Peak learning rate of the pretrained weights; 2e-5, for `lora` 2e-4.
        layer_decay: For `full`, the factor of the learning rate from each block to the one below.
        lora_rank: Rank of the updates of `lora`.
    """

    preset: Literal["small", "resnet18"] | None = None
    n_mels: Annotated[int, pydantic.Field(ge=4, le=512)] | None = 64
    dropout: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.1
    pretrained: Annotated[str, pydantic.Field(min_length=1)] | None = None
    tune: Literal["frozen", "last_2", "full", "lora"] | None = None
    pooling: Literal["pooler", "cls", "mean"] | None = None
    adapter: Literal["auto", "linear", "mlp"] | None = None
    views: Annotated[int, pydantic.Field(ge=1, le=64)] | None = None
    learning_rate: pydantic.PositiveFloat | None = None
    layer_decay: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    lora_rank: Annotated[int, pydantic.Field(ge=1, le=256)] | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        """Set the defaults that depend on whether the encoder is pretrained."""
        if not isinstance(value, dict):
            return value
        given = {key: item for key, item in value.items() if item is not None}
        if "pretrained" not in given:
            if surplus := [key for key in _PRETRAINED_DEFAULTS if key in given]:
                raise ValueError(f"{surplus[0]} is for a pretrained model; set `pretrained` too")
            return value if "preset" in given else {**value, "preset": "small"}
        if "preset" in given:
            raise ValueError("give either a preset or a pretrained model, not both")
        rate = 2e-4 if given.get("tune") == "lora" else 2e-5
        return {**value, **_PRETRAINED_DEFAULTS, "learning_rate": rate, **given}

    @pydantic.model_validator(mode="after")
    def _check_views(self) -> EncoderConfig:
        if self.tune not in (None, "frozen") and (self.views or 1) > 1:
            raise ValueError(
                "views is for a frozen model, whose features are computed once; a tuned model sees "
                "a new augmentation in each step"
            )
        return self

    @property
    def frozen(self) -> bool:
        """Whether the encoder is pretrained and none of its weights are trained."""
        return self.tune == "frozen"


def expand_encoder(value: str) -> dict[str, Any]:
    """Return the encoder that a string abbreviates: a preset or a pretrained model."""
    return {"preset" if value in PRESETS else "pretrained": value}

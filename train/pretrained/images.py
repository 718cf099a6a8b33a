"""What an image processor of the hub does, as the plain numbers of `ImageConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dimml.errors import RecipeError
from dimml.modalities.resizing import RESAMPLING
from dimml.nn.pretrained.families import Family
from train.pretrained.folder import ModelFolder

REQUIRED = ("channels", "channel_order")
"""Keys of the preprocessing that a recipe cannot change."""

_NAMES = {int(filter): name for name, filter in RESAMPLING.items()}


def image_preprocessing(folder: ModelFolder, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing of a model's images.

    Args:
        folder: The folder of the model.
        config: The model's configuration.

    Raises:
        RecipeError: If the processor cannot be read, or gives images of many sizes.
    """
    processor = _read_processor(folder)
    if not processor.get("do_resize", True) and config.get("image_size"):
        processor["size"] = config["image_size"]
    sizes = _sizes(processor)
    # An image of values 0..1 is first multiplied by `scale` and shifted by `offset`.
    scale = 255 * processor["rescale_factor"] if processor.get("do_rescale", True) else 255.0
    offset = -1.0 if processor.get("rescale_offset") else 0.0
    mean, std = np.zeros(1), np.ones(1)
    if processor.get("do_normalize"):
        mean = np.atleast_1d(np.asarray(processor["image_mean"], np.float64))
        std = np.atleast_1d(np.asarray(processor["image_std"], np.float64))
    divisor = std
    if processor.get("include_top"):
        # EfficientNet's processor divides by the standard deviation a second time.
        divisor = std * np.atleast_1d(np.asarray(processor["image_std"], np.float64))
    return {
        **sizes,
        "resample": _resample_name(processor.get("resample")),
        "channels": int(config.get("num_channels") or 3),
        "mean": ((mean - offset) / scale).tolist(),
        "std": (divisor / scale).tolist(),
        "channel_order": "bgr" if processor.get("do_flip_channel_order") else "rgb",
    }


def _resample_name(resample: Any) -> str:
    """Return Pillow's name of a filter; processors without one use the bilinear filter."""
    if resample is None:
        return "bilinear"
    if resample not in _NAMES:
        raise RecipeError(f"the model's image processor has an unknown `resample`: {resample!r}")
    return _NAMES[resample]


def check_size(size: tuple[int, int], family: Family, config: Mapping[str, Any]) -> None:
    """Reject an image size that the model does not take.

    Raises:
        RecipeError: If the model does not take the size.
    """
    own = config.get("image_size")
    if family.sizes == "fixed" and own:
        expected = (own, own) if isinstance(own, int) else tuple(own)
        if size != expected:
            raise RecipeError(
                f"size is {size[0]}x{size[1]}, but the position embeddings of a "
                f"{config['model_type']} fit {expected[0]}x{expected[1]} only; leave "
                "`preprocessing.size` out"
            )
    patch = config.get("patch_size")
    if family.sizes == "patches" and isinstance(patch, int) and any(s % patch for s in size):
        raise RecipeError(
            f"size is {size[0]}x{size[1]}, but the model cuts images into patches of {patch} "
            f"pixels; choose multiples of {patch}"
        )


def _read_processor(folder: ModelFolder) -> dict[str, Any]:
    import transformers

    own = folder.read_json("preprocessor_config.json")
    own = own or folder.read_json("processor_config.json").get("image_processor", {})
    if not own:
        raise RecipeError(
            f"{folder.model} has no preprocessor_config.json, which holds the size and the "
            "statistics of its images; copy it from the model that this one was made from"
        )
    if own.get("image_processor_type", "").startswith("DINOv3"):
        # Its class needs torchvision; it resizes, scales and normalises as this base class does.
        return {"do_normalize": True, "rescale_factor": 1 / 255, **own}
    try:
        load: Any = transformers.AutoImageProcessor.from_pretrained
        processor: Any = load(folder.path, use_fast=False, trust_remote_code=False)
    except (OSError, ValueError, ImportError, TypeError) as error:
        raise RecipeError(
            f"the image processor of {folder.model} cannot be read: {error}"
        ) from error
    document: dict[str, Any] = processor.to_dict()
    return document


def _sizes(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys `size`, `resize` and `resize_to`."""
    size = _as_mapping(processor.get("size"))
    side = size.get("shortest_edge")
    pair = (size["height"], size["width"]) if size.get("height") else None
    if side and processor.get("crop_pct"):
        # ConvNeXt's processor cuts small images and stretches large ones.
        if side >= 384:
            return {"size": (side, side), "resize": "stretch"}
        before = int(side / processor["crop_pct"])
        return {"size": (side, side), "resize": "crop", "resize_to": before}
    if processor.get("do_center_crop"):
        crop = _as_mapping(processor.get("crop_size"))
        cut = (crop["height"], crop["width"])
        return {"size": cut, "resize": "crop", "resize_to": pair or side}
    if pair:
        return {"size": pair, "resize": "stretch"}
    if side:
        # The processor keeps the aspect ratio; images of one size can share a batch.
        return {"size": (side, side), "resize": "crop", "resize_to": side}
    raise RecipeError(
        f"the processor gives images of many sizes ({size}); choose a model with a fixed size"
    )


def _as_mapping(size: Any) -> dict[str, int]:
    if isinstance(size, int):
        return {"height": size, "width": size}
    return {key: value for key, value in dict(size or {}).items() if value}

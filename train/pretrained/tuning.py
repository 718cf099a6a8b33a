"""Which weights of a pretrained backbone are trained, and how fast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from dimml.errors import RecipeError
from dimml.nn.encoders import Encoder
from dimml.nn.model import MultimodalModel
from dimml.nn.pretrained.backbone import Backbone, PretrainedSettings, build_backbone
from train.encoder_config import EncoderConfig
from train.recipe import Recipe

TUNED_BLOCKS = 2
LORA_DROPOUT = 0.05


def prepare_tuning(backbone: Backbone, config: EncoderConfig) -> None:
    """Mark the weights of a backbone that are trained, or add low-rank updates.

    Raises:
        RecipeError: If the backbone has no blocks or no linear layers.
    """
    if config.tune == "full":
        return
    backbone.model.requires_grad_(False)
    if config.tune == "last_2":
        for _, module in _from_block(backbone, -TUNED_BLOCKS):
            module.requires_grad_(True)
    elif config.tune == "lora":
        _add_lora(backbone, int(config.lora_rank or 8))


def check_tuning(settings: PretrainedSettings, config: EncoderConfig) -> None:
    """Reject a tuning that the model has no layers for, without its weights.

    Raises:
        RecipeError: If `prepare_tuning` would.
    """
    if config.tune in ("last_2", "lora"):
        with torch.device("meta"):
            prepare_tuning(build_backbone(settings), config)


def merge_lora(model: MultimodalModel) -> None:
    """Add the low-rank updates of all backbones to their weights, and remove the updates."""
    layers: list[tuple[nn.Module, str, Any]] = [
        (parent, name, child)
        for encoder in model.encoders
        for parent in encoder.modules()
        for name, child in parent.named_children()
        if hasattr(child, "lora_A")
    ]
    for parent, name, layer in layers:
        layer.merge()
        setattr(parent, name, layer.get_base_layer())


def parameter_groups(module: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the trained parameters with their learning rates, for an optimizer.

    Args:
        module: What is trained; its attribute `model` is the `MultimodalModel`.
        recipe: The recipe of the run.
    """
    rates: dict[nn.Parameter, float] = {}
    model: Any = module.model
    for name, encoder in zip(model.modalities, model.encoders, strict=True):
        if isinstance(encoder, Encoder) and isinstance(encoder.backbone, Backbone):
            rates |= _backbone_rates(encoder.backbone, recipe.modalities[name].encoder)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            rate = rates.get(parameter, recipe.training.learning_rate)
            groups.setdefault(rate, []).append(parameter)
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]


def _backbone_rates(backbone: Backbone, config: EncoderConfig) -> dict[nn.Parameter, float]:
    """Return the learning rate of each weight, which decays from the last block to the first."""
    base = float(config.learning_rate or 0.0)
    rates = dict.fromkeys(backbone.parameters(), base)
    if config.tune != "full":
        return rates
    blocks = _blocks(backbone)
    decay = float(config.layer_decay or 1.0)
    # What comes before the first block decays once more than that block.
    rates = dict.fromkeys(backbone.parameters(), base * decay ** len(blocks))
    for number, block in enumerate(blocks):
        rates |= dict.fromkeys(block.parameters(), base * decay ** (len(blocks) - 1 - number))
    for _, module in _from_block(backbone, len(blocks)):
        rates |= dict.fromkeys(module.parameters(), base)
    return rates


def _blocks(backbone: Backbone) -> list[nn.Module]:
    """Return the blocks of the model: its largest list of modules that is in no other list.

    Raises:
        RecipeError: If the model has no such list.
    """
    lists: list[tuple[str, nn.ModuleList]] = []
    for name, module in backbone.model.named_modules():
        inside = any(name.startswith(f"{other}.") for other, _ in lists)
        # A weight-normalised layer keeps its weights in a list of another class.
        if type(module) is nn.ModuleList and not inside:
            lists.append((name, module))
    if not lists:
        raise RecipeError(f"{backbone.settings.model} has no blocks; use `tune: frozen` or `full`")
    _, blocks = max(lists, key=lambda item: sum(w.numel() for w in item[1].parameters()))
    return list(blocks)


def _from_block(backbone: Backbone, first: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks from `first` on, and the modules that the model registers behind them.

    Embeddings behind the blocks are those of relative positions, which every block uses.
    """
    blocks = _blocks(backbone)
    chosen = blocks[first:] if first < len(blocks) else []
    last = blocks[-1]
    inner = set(last.modules())
    passed = False
    for name, module in backbone.model.named_modules():
        if any(module is block for block in chosen):
            yield name, module
        if module is last:
            passed = True
        elif passed and not (isinstance(module, nn.Embedding) or module in inner):
            yield name, module


def _add_lora(backbone: Backbone, rank: int) -> None:
    import peft

    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=LORA_DROPOUT, target_modules="all-linear"
    )
    linear = any(isinstance(module, nn.Linear) for module in backbone.model.modules())
    if not linear:
        raise RecipeError(
            f"{backbone.settings.model} has no linear layers, to which LoRA adds its updates; use "
            "`tune: last_2` or `full`"
        )
    peft.inject_adapter_in_model(config, backbone.model)

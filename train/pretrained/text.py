"""The tokenizer, the length and the pooling of a text model of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimml.errors import RecipeError
from dimml.nn.pretrained.families import Pooling
from train.pretrained.folder import ModelFolder

REQUIRED = ("pad_id", "pad_to_max")
"""Keys of the preprocessing that a recipe cannot change."""

MAX_TOKENS = 512
"""The default length of models that read more. The time of attention grows with its square."""

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "mpnet", "camembert", "data2vec-text", "longformer"}
"""Types whose first position is that of the padding token plus one."""


def text_preprocessing(
    folder: ModelFolder, config: Mapping[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """Return the preprocessing of a model's texts, and its tokenizer as `tokenizer.json`.

    Raises:
        RecipeError: If the tokenizer cannot be read, or is not that of the model.
    """
    tokenizer = _read_tokenizer(folder)
    content: str = tokenizer.backend_tokenizer.to_str()
    vocabulary = tokenizer.backend_tokenizer.get_vocab_size()
    if vocabulary > config["vocab_size"]:
        raise RecipeError(
            f"the tokenizer of {folder.model} has {vocabulary:,} tokens, its model "
            f"{config['vocab_size']:,}; download the model again"
        )
    padded = config["model_type"].startswith("siglip")
    positions = position_count(config)
    limits = [positions] if padded else [tokenizer.model_max_length, positions, MAX_TOKENS]
    if sentence := folder.read_json("sentence_bert_config.json").get("max_seq_length"):
        limits.append(sentence)
    prompts = folder.read_json("config_sentence_transformers.json")
    pad_id = tokenizer.pad_token_id
    preprocessing = {
        "max_length": int(min(limit for limit in limits if limit)),
        "prompt": (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name")) or "",
        "pad_to_max": padded,
        "pad_id": int(pad_id if pad_id is not None else config.get("pad_token_id") or 0),
    }
    return preprocessing, content.encode()


def position_count(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens that a model reads; None for relative positions only."""
    positions = config.get("max_position_embeddings")
    if positions is None or config.get("position_biased_input") is False:
        return None
    if config["model_type"] in _OFFSET_POSITIONS:
        return int(positions) - int(config.get("pad_token_id") or 0) - 1
    return int(positions)


def sentence_pooling(folder: ModelFolder, default: Pooling) -> Pooling:
    """Return the pooling of `1_Pooling/config.json`, or the default.

    Raises:
        RecipeError: If the pooling is neither that of the first token nor the mean.
    """
    document = folder.read_json("1_Pooling/config.json")
    if not document:
        return default
    modes = [key for key, value in document.items() if key.startswith("pooling_mode_") and value]
    # Several modes are several vectors, joined to one.
    if modes == ["pooling_mode_mean_tokens"] or document.get("pooling_mode") == "mean":
        return "mean"
    if modes == ["pooling_mode_cls_token"] or document.get("pooling_mode") == "cls":
        return "cls"
    raise RecipeError(
        f"{folder.model} pools its tokens by {', '.join(modes) or document}; set `encoder.pooling` "
        "to mean or cls, or choose another model"
    )


def check_tokens(max_length: int, config: Mapping[str, Any]) -> None:
    """Reject more tokens than a model has positions.

    Raises:
        RecipeError: If there are more tokens.
    """
    if max_length < 3:
        raise RecipeError(
            f"max_length is {max_length}, which leaves no room for words beside the first and the "
            "last token; raise `preprocessing.max_length`"
        )
    positions = position_count(config)
    if positions is not None and max_length > positions:
        offset = config["model_type"] in _OFFSET_POSITIONS
        why = f" ({config['max_position_embeddings']} less those of the padding)" if offset else ""
        raise RecipeError(
            f"max_length is {max_length}, but the model has {positions} positions{why}; lower "
            "`preprocessing.max_length`"
        )


def _read_tokenizer(folder: ModelFolder) -> Any:
    import transformers

    # Without a vocabulary, `transformers` builds a tokenizer to which every word is unknown.
    if not any(file for pattern in _VOCABULARIES for file in folder.path.glob(pattern)):
        raise RecipeError(
            f"{folder.model} has no tokenizer.json, nor another vocabulary; a model needs the "
            "tokenizer it was trained with"
        )
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            folder.path, trust_remote_code=False
        )
    # Tokenizer classes raise many types of error for missing or damaged files.
    except Exception as error:
        raise RecipeError(
            f"the tokenizer of {folder.model} cannot be read: {error}; a model needs the tokenizer "
            "it was trained with"
        ) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise RecipeError(
            f"{folder.model} has no fast tokenizer (tokenizer.json); choose a model that has one"
        )
    return tokenizer

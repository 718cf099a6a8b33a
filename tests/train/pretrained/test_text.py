"""Texts: token ids, lengths, prompts, padding and pooling of a model's own folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from dimml.errors import RecipeError
from dimml.modalities import KINDS, Text
from tests.conftest import PretrainedFolder
from tests.pretrained_folders import TEXT_MODELS
from train.pretrained import PretrainedModel, read_model
from train.recipe import ModalityConfig

TEXTS = {"short": "it was red", "unknown": "a green QUERY: two", "long": "one two three " * 20}
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
MAXIMUM = {"pooling_mode_cls_token": False, "pooling_mode_max_tokens": True}


def read(folder: Path, encoder: dict[str, Any] | None = None, **preprocessing: Any) -> Any:
    settings = {"pretrained": str(folder), **(encoder or {})}
    modality = ModalityConfig(kind="text", preprocessing=preprocessing, encoder=settings)
    return read_model("note", modality)


def kind_of(model: PretrainedModel) -> Text:
    kind = KINDS["text"]("note", dict(model.preprocessing), model.assets)
    assert isinstance(kind, Text)
    return kind


def host_tokens(kind: Text, *texts: str) -> tuple[np.ndarray, np.ndarray]:
    inputs = kind.collate([kind.preprocess(kind.decode(text)) for text in texts])
    return inputs["input_ids"], inputs["attention_mask"]


@pytest.fixture
def bert(pretrained_folder: PretrainedFolder, tmp_path: Path) -> Path:
    """Return a copy of a BERT that a test may change."""
    return shutil.copytree(pretrained_folder("text", "bert"), tmp_path / "bert")


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def add_prompt(folder: Path, default: str | None) -> None:
    prompts = {"query": "query: ", "passage": "two: "}
    document = {"prompts": prompts, "default_prompt_name": default}
    write_json(folder / "config_sentence_transformers.json", document)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("model_type", [name for name in TEXT_MODELS if name != "siglip"])
def test_tokens_equal_those_of_the_tokenizer(
    pretrained_folder: PretrainedFolder, model_type: str, name: str
) -> None:
    folder = pretrained_folder("text", model_type)
    model = read(folder)
    ids, mask = host_tokens(kind_of(model), TEXTS[name])
    limit = model.preprocessing["max_length"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = tokenizer(TEXTS[name], truncation=True, max_length=limit)
    assert ids.tolist() == [expected["input_ids"]]
    assert mask.tolist() == [expected["attention_mask"]]
    assert (len(ids[0]) == limit) == (name == "long")


def test_batch_is_padded_as_the_tokenizer_pads(bert: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    expected = tokenizer([*TEXTS.values()], truncation=True, padding=True, return_tensors="np")
    ids, mask = host_tokens(kind_of(read(bert)), *TEXTS.values())
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])


@pytest.mark.parametrize("name", TEXTS)
def test_siglip_text_is_padded_to_exactly_its_positions(
    pretrained_folder: PretrainedFolder, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(pretrained_folder("text", "siglip"), tmp_path / "siglip")
    # The tokenizer of SigLIP pads with its end token.
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = "[SEP]"
    tokenizer.save_pretrained(folder)
    model = read(folder)
    assert (model.preprocessing["pad_to_max"], model.preprocessing["pad_id"]) == (True, 3)
    ids, _ = host_tokens(kind_of(model), TEXTS[name])
    expected = tokenizer(TEXTS[name], truncation=True, padding="max_length", max_length=16)
    assert ids.tolist() == [expected["input_ids"]]
    assert ids.shape == (1, 16)
    # The model was trained without a mask.
    assert not model.settings.masked


def test_length_is_the_smallest_limit_of_the_folder(bert: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    assert read(bert).preprocessing["max_length"] == 16
    tokenizer.model_max_length = 1_000_000
    tokenizer.save_pretrained(bert)
    assert read(bert).preprocessing["max_length"] == 32
    write_json(bert / "sentence_bert_config.json", {"max_seq_length": 12})
    assert read(bert).preprocessing["max_length"] == 12


def test_positions_of_padding_are_not_tokens(
    pretrained_folder: PretrainedFolder, tmp_path: Path
) -> None:
    folder = shutil.copytree(pretrained_folder("text", "roberta"), tmp_path / "roberta")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 1_000_000
    tokenizer.save_pretrained(folder)
    # 34 positions, of which the padding token 1 takes the first two.
    model = read(folder)
    assert model.preprocessing["max_length"] == 32
    ids, mask = host_tokens(kind_of(model), TEXTS["long"])
    assert ids.shape == (1, 32)
    tensors = (transformers.BatchEncoding({"i": ids, "m": mask}, tensor_type="pt")[k] for k in "im")
    assert model.load()(*tensors).isfinite().all()


@pytest.mark.parametrize("name", TEXTS)
def test_default_prompt_is_put_before_every_text(bert: Path, name: str) -> None:
    add_prompt(bert, "query")
    model = read(bert)
    assert model.preprocessing["prompt"] == "query: "
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    expected = tokenizer("query: " + TEXTS[name], truncation=True)["input_ids"]
    assert host_tokens(kind_of(model), TEXTS[name])[0].tolist() == [expected]


def test_prompt_that_is_not_the_default_is_not_used(bert: Path) -> None:
    add_prompt(bert, None)
    assert read(bert).preprocessing["prompt"] == ""


def test_prompt_of_the_recipe_replaces_that_of_the_folder(
    bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_prompt(bert, "query")
    assert read(bert, prompt="two: ").preprocessing["prompt"] == "two: "
    assert 'note: prompt is "two: ", as the recipe says; the model\'s own is "query: "' in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("document", "pooling"),
    [
        (None, "mean"),
        (MEAN, "mean"),
        (CLS, "cls"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_pooling_of_sentence_transformers_is_used(
    bert: Path, document: dict[str, Any] | None, pooling: str
) -> None:
    if document:
        write_json(bert / "1_Pooling" / "config.json", document)
    assert read(bert).settings.pooling == pooling


@pytest.mark.parametrize(
    ("document", "name"),
    [
        (MAXIMUM, "pooling_mode_max_tokens"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({**MEAN, "pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ({**CLS, "pooling_mode_mean_tokens": True}, "pooling_mode_cls_token"),
    ],
)
def test_other_pooling_is_rejected(bert: Path, document: dict[str, Any], name: str) -> None:
    write_json(bert / "1_Pooling" / "config.json", document)
    with pytest.raises(RecipeError, match=rf"modalities\.note: .*{name}.* set `encoder\.pooling`"):
        read(bert)
    assert read(bert, {"pooling": "mean"}).settings.pooling == "mean"


def test_normalised_text_is_tokenised_like_the_original(bert: Path) -> None:
    kind = kind_of(read(bert))
    composed, decomposed = "one caf\u00e9 two", "one cafe\u0301 two"
    assert kind.decode(composed).ids == kind.decode(decomposed).ids

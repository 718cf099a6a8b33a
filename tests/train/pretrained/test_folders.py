"""Folders of pretrained models that are incomplete, damaged or not there."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.train.pretrained.refusals import CopyFolder, assert_refused, read

WEIGHTS = "model.safetensors"
JSON_FILES = [
    ("image", "vit", "config.json"),
    ("audio", "whisper", "config.json"),
    ("text", "bert", "config.json"),
    ("image", "vit", "preprocessor_config.json"),
    ("audio", "whisper", "preprocessor_config.json"),
    ("text", "bert", "tokenizer.json"),
    ("text", "bert", "tokenizer_config.json"),
    ("text", "bert", "sentence_bert_config.json"),
    ("text", "bert", "config_sentence_transformers.json"),
    ("text", "bert", "1_Pooling/config.json"),
]
WRONG_VALUES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("image", "vit", "config.json", {"model_type": 3}),
    ("image", "vit", "config.json", {"model_type": "vit", "hidden_size": "big"}),
    ("image", "vit", "preprocessor_config.json", {"image_processor_type": 3}),
    (
        "image",
        "vit",
        "preprocessor_config.json",
        {"image_processor_type": "ViTImageProcessor", "image_mean": "grey"},
    ),
    (
        "audio",
        "whisper",
        "preprocessor_config.json",
        {"feature_extractor_type": "WhisperFeatureExtractor", "n_fft": "all"},
    ),
    ("text", "bert", "tokenizer.json", {"added_tokens": 3}),
    ("text", "bert", "sentence_bert_config.json", {"max_seq_length": "many"}),
    ("text", "bert", "sentence_bert_config.json", {"max_seq_length": -3}),
    ("text", "bert", "config_sentence_transformers.json", {"prompts": [1]}),
]


class TestFolder:
    def test_folder_with_pickled_weights_only_is_rejected(self, copy: CopyFolder) -> None:
        folder = copy("image", "vit")
        torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()
        text = "has its weights in pytorch_model.bin only, a pickle file, which can run any code"
        assert_refused(folder, "image", text)

    def test_pickle_beside_safetensors_is_not_read(self, copy: CopyFolder) -> None:
        folder = copy("image", "vit")
        (folder / "pytorch_model.bin").write_bytes(b"not a pickle")
        assert read(folder, "image").load().width == 32

    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("config.json", "has no config.json, so it is not the folder of a pretrained model"),
            (WEIGHTS, "has no model.safetensors; download the model again"),
            ("preprocessor_config.json", "has no preprocessor_config.json"),
        ],
    )
    def test_folder_without_a_file_is_rejected(
        self, copy: CopyFolder, file: str, text: str
    ) -> None:
        folder = copy("image", "vit")
        (folder / file).unlink()
        assert_refused(folder, "image", text)

    def test_audio_model_without_extractor_is_rejected(self, copy: CopyFolder) -> None:
        folder = copy("audio", "whisper")
        (folder / "preprocessor_config.json").unlink()
        assert_refused(folder, "audio", "the feature extractor of whisper cannot be read")

    @pytest.mark.parametrize("model_type", ["bert", "xlm-roberta", "clip", "siglip"])
    def test_text_model_without_vocabulary_is_rejected(
        self, copy: CopyFolder, model_type: str
    ) -> None:
        folder = copy("text", model_type)
        (folder / "tokenizer.json").unlink()
        assert_refused(
            folder, "text", f"{model_type} has no tokenizer.json, nor another vocabulary"
        )


class TestDamage:
    @pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b""])
    @pytest.mark.parametrize(("kind", "model_type", "file"), JSON_FILES)
    def test_damaged_file_is_rejected(
        self, copy: CopyFolder, kind: str, model_type: str, file: str, content: bytes
    ) -> None:
        folder = copy(kind, model_type)
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(content)
        assert_refused(folder, kind, model_type)

    @pytest.mark.parametrize(("kind", "model_type", "file", "content"), WRONG_VALUES)
    def test_value_of_the_wrong_type_is_rejected(
        self, copy: CopyFolder, kind: str, model_type: str, file: str, content: dict[str, Any]
    ) -> None:
        folder = copy(kind, model_type)
        (folder / file).write_text(json.dumps(content))
        assert_refused(folder, kind, model_type)

    @pytest.mark.parametrize("part", ["end", "half", "header", "junk", "empty"])
    def test_damaged_weights_are_rejected(self, copy: CopyFolder, part: str) -> None:
        folder = copy("image", "vit")
        content = (folder / WEIGHTS).read_bytes()
        damaged = {
            "end": content[:-1],
            "half": content[: len(content) // 2],
            "header": content[:8] + b"\0" + content[9:],
            "junk": b"junk" * 20,
            "empty": b"",
        }
        (folder / WEIGHTS).write_bytes(damaged[part])
        assert_refused(folder, "image", "cannot load the weights of vit: ")

    @pytest.mark.parametrize(
        ("kind", "model_type", "tensor"),
        [
            ("image", "vit", "vit.embeddings.patch_embeddings.projection.weight"),
            ("image", "vit", "vit.encoder.layer.0.output.dense.weight"),
            ("image", "clip", "vision_model.post_layernorm.weight"),
            ("audio", "whisper", "encoder.conv1.weight"),
            ("audio", "wav2vec2", "feature_projection.projection.weight"),
            ("text", "bert", "embeddings.position_embeddings.weight"),
        ],
    )
    def test_weights_that_lack_a_tensor_are_rejected(
        self, copy: CopyFolder, kind: str, model_type: str, tensor: str
    ) -> None:
        folder = copy(kind, model_type)
        weights = load_file(folder / WEIGHTS)
        original = weights.pop(tensor)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        text = f"the weights of {model_type} lack 1 tensors of the model {model_type}"
        assert_refused(folder, kind, text)
        save_file({**weights, tensor: original[:-1].clone()}, folder / WEIGHTS)
        assert_refused(folder, kind, "or have them in another shape, such as ")

    @pytest.mark.parametrize(
        ("kind", "model_type", "part"),
        [
            ("image", "vit", "classifier."),
            ("audio", "whisper", "decoder."),
            ("text", "bert", "pool"),
        ],
    )
    def test_tensors_that_the_features_do_not_need_may_lack(
        self, copy: CopyFolder, kind: str, model_type: str, part: str
    ) -> None:
        folder = copy(kind, model_type)
        weights = load_file(folder / WEIGHTS)
        used = {name: tensor for name, tensor in weights.items() if not name.startswith(part)}
        assert len(used) < len(weights)
        save_file(used, folder / WEIGHTS, metadata={"format": "pt"})
        assert read(folder, kind).load().width == 32

    def test_half_precision_weights_are_loaded_as_float32(self, copy: CopyFolder) -> None:
        folder = copy("image", "vit")
        halves = {name: tensor.half() for name, tensor in load_file(folder / WEIGHTS).items()}
        save_file(halves, folder / WEIGHTS, metadata={"format": "pt"})
        parameters = read(folder, "image").load().parameters()
        assert {parameter.dtype for parameter in parameters} == {torch.float32}


class TestSource:
    @pytest.mark.parametrize("source", ["someone/no-such-model", "no-such-model", "a/b@main"])
    def test_model_that_the_hub_does_not_give_is_rejected_quickly(
        self, monkeypatch: pytest.MonkeyPatch, source: str
    ) -> None:
        # The client reads the variable when it is imported.
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        started = time.monotonic()
        model = source.partition("@")[0]
        text = f"there is no preset or folder {model!r} here, and the hub could not give such a"
        assert_refused(source, "image", text)
        assert time.monotonic() - started < 5

    @pytest.mark.parametrize("source", ["./models/vit", "/no/such/folder", "~/nothing", "vit/"])
    def test_path_without_a_folder_is_rejected(self, source: str) -> None:
        assert_refused(source, "image", f"there is no folder {source}")

    @pytest.mark.parametrize("source", ["a b", "a/b/c", "https://a.b/c"])
    def test_name_that_is_neither_a_folder_nor_an_id_is_rejected(self, source: str) -> None:
        text = f"{source!r} is neither a folder nor the id of a model on the hub"
        assert_refused(source, "image", text)

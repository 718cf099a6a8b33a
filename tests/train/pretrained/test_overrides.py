"""What a recipe overrides, and models of a type that the table of families lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from dimml.modalities import KINDS
from dimml.nn.pretrained.families import FAMILIES
from tests.conftest import PretrainedFolder
from tests.pretrained_folders import LAYERS, MODELS, STAGES, write_tokenizer
from tests.train.pretrained.refusals import assert_refused, read


def write(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    return folder


class TestOverride:
    @pytest.mark.parametrize(
        ("kind", "model_type", "key", "value", "own"),
        [
            ("audio", "whisper", "seconds", 2.0, "30.0"),
            ("audio", "clap", "fill", "silence", '"repeat"'),
            ("audio", "wav2vec2", "max_seconds", 4.0, "30.0"),
            ("image", "vit", "mean", [0.5], "[0.48, 0.45, 0.4]"),
            ("image", "clip", "resize", "pad", '"crop"'),
            ("image", "dinov2", "size", [28, 56], "[42, 42]"),
            ("text", "bert", "max_length", 12, "16"),
        ],
    )
    def test_setting_of_the_recipe_wins_and_is_reported(
        self,
        pretrained_folder: PretrainedFolder,
        capsys: pytest.CaptureFixture[str],
        kind: str,
        model_type: str,
        key: str,
        value: Any,
        own: str,
    ) -> None:
        folder = pretrained_folder(kind, model_type)
        model = read(folder, kind, preprocessing={key: value})
        assert model.preprocessing[key] == value
        printed = capsys.readouterr()
        assert printed.out == ""
        line = (
            f"input: {key} is {json.dumps(value)}, as the recipe says; the model's own is {own}\n"
        )
        assert line in printed.err

    def test_setting_that_equals_the_model_is_not_reported(
        self, pretrained_folder: PretrainedFolder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = {"size": [32, 32], "channels": 3, "channel_order": "rgb"}
        assert read(pretrained_folder("image", "vit"), "image", preprocessing=settings)
        assert "as the recipe says" not in capsys.readouterr().err

    def test_pooling_of_the_recipe_wins_and_is_reported(
        self, pretrained_folder: PretrainedFolder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = pretrained_folder("text", "bert")
        encoder = {"pretrained": str(folder), "pooling": "cls"}
        assert read(folder, "text", encoder=encoder).settings.pooling == "cls"
        line = "input: pooling is cls, as the recipe says, not mean"
        assert line in capsys.readouterr().err

    @pytest.mark.parametrize("kind", FAMILIES)
    def test_every_accepted_pooling_gives_features_and_others_are_refused(
        self, pretrained_folder: PretrainedFolder, kind: str
    ) -> None:
        for model_type in MODELS[kind]:
            family = FAMILIES[kind][model_type]
            folder = pretrained_folder(kind, model_type)
            for pooling in ("pooler", "cls", "mean"):
                encoder = {"pretrained": str(folder), "pooling": pooling}
                if pooling not in (family.pooling, *family.poolings):
                    text = f"encoder.pooling is {pooling}, but the features of a "
                    assert_refused(folder, kind, text, encoder=encoder)
                    continue
                model = read(folder, kind, encoder=encoder)
                own = KINDS[kind]("input", dict(model.preprocessing), model.assets)
                inputs = own.collate([own.preprocess(own.decode(own.example()))] * 2)
                tensors = [torch.from_numpy(inputs[name]) for name in own.input_names]
                backbone = model.load()
                with torch.no_grad():
                    assert backbone(*tensors).shape == (2, backbone.width)


class TestUnknownType:
    def test_unknown_image_model_loads_with_a_warning(
        self,
        pretrained_folder: PretrainedFolder,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        config = transformers.RegNetConfig(embedding_size=16, **STAGES)
        folder = write(tmp_path / "regnet", transformers.RegNetModel(config))
        shutil.copy(pretrained_folder("image", "vit") / "preprocessor_config.json", folder)
        backbone = read(folder, "image").load()
        assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 40)
        warning = capsys.readouterr().err
        for assumed in ("input: warning:", "regnet", "AutoModel", "pixels", "mean", "eager"):
            assert assumed in warning

    def test_unknown_text_model_loads_with_a_warning(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = transformers.ElectraConfig(**LAYERS, embedding_size=16, vocab_size=40)
        folder = write(tmp_path / "electra", transformers.ElectraModel(config))
        write_tokenizer(folder)
        ids = torch.tensor([[2, 4, 5, 3]])
        assert read(folder, "text").load()(ids, torch.ones_like(ids)).shape == (1, 32)
        assert "input: warning: dimml does not know the model type electra" in (
            capsys.readouterr().err
        )

    def test_unknown_model_of_several_towers_is_rejected(self, tmp_path: Path) -> None:
        config = transformers.GroupViTConfig()
        config.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").touch()
        assert_refused(tmp_path, "image", "is a groupvit of several towers")

"""Pretrained models that do not fit the recipe: each has a message that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dimml.errors import RecipeError
from tests.conftest import PretrainedFolder
from tests.train.pretrained.refusals import CopyFolder, assert_refused, edit_json, read


class TestRecipe:
    def test_tokenizer_is_rejected(
        self, pretrained_folder: PretrainedFolder, tmp_path: Path
    ) -> None:
        assert_refused(
            pretrained_folder("text", "bert"),
            "text",
            "leave `tokenizer` out",
            tokenizer=tmp_path / "tokenizer.json",
        )

    @pytest.mark.parametrize(
        ("model_type", "positions"),
        [("bert", "32 positions;"), ("roberta", "32 positions (34 less those of the padding)")],
    )
    def test_more_tokens_than_positions_are_rejected(
        self, pretrained_folder: PretrainedFolder, model_type: str, positions: str
    ) -> None:
        folder = pretrained_folder("text", model_type)
        text = f"max_length is 33, but the model has {positions}"
        assert_refused(folder, "text", text, preprocessing={"max_length": 33})
        assert read(folder, "text", preprocessing={"max_length": 32})

    def test_other_length_for_siglip_is_rejected(self, pretrained_folder: PretrainedFolder) -> None:
        text = "max_length is 12, but the model reads texts of exactly 16 tokens"
        folder = pretrained_folder("text", "siglip")
        assert_refused(folder, "text", text, preprocessing={"max_length": 12})

    @pytest.mark.parametrize("model_type", ["clip", "vit", "siglip", "beit", "deit"])
    def test_size_without_position_embeddings_is_rejected(
        self, pretrained_folder: PretrainedFolder, model_type: str
    ) -> None:
        folder = pretrained_folder("image", model_type)
        for size in ([32, 40], [64, 64]):
            text = f"size is {size[0]}x{size[1]}, but the position embeddings of a "
            assert_refused(folder, "image", text, preprocessing={"size": size})

    @pytest.mark.parametrize(("model_type", "patch"), [("dinov2", 14), ("dinov3_vit", 8)])
    def test_size_that_is_no_multiple_of_the_patch_is_rejected(
        self, pretrained_folder: PretrainedFolder, model_type: str, patch: int
    ) -> None:
        folder = pretrained_folder("image", model_type)
        text = f"choose multiples of {patch}"
        assert_refused(folder, "image", text, preprocessing={"size": [2 * patch, 2 * patch + 1]})
        assert read(folder, "image", preprocessing={"size": [2 * patch, 3 * patch]})

    @pytest.mark.parametrize(
        ("kind", "model_type", "key", "value"),
        [
            ("audio", "whisper", "sample_rate", 8000),
            ("audio", "whisper", "output", "waveform"),
            ("audio", "wav2vec2", "sample_rate", 44_100),
            ("audio", "clap", "hop_length", 320),
            ("image", "vit", "channels", 1),
            ("image", "mobilevit", "channel_order", "rgb"),
            ("text", "siglip", "pad_to_max", False),
            ("text", "bert", "pad_id", 3),
        ],
    )
    def test_what_a_model_was_trained_with_cannot_be_changed(
        self,
        pretrained_folder: PretrainedFolder,
        kind: str,
        model_type: str,
        key: str,
        value: object,
    ) -> None:
        text = f"preprocessing.{key} is {value}, but the model was trained with"
        folder = pretrained_folder(kind, model_type)
        assert_refused(folder, kind, text, preprocessing={key: value})

    @pytest.mark.parametrize(
        ("model_type", "preprocessing", "text"),
        [
            ("whisper", {"seconds": 31}, "up to 31.0 seconds, but the model reads at most 30"),
            ("whisper", {"seconds": None, "max_seconds": 40}, "up to 40.0 seconds"),
            ("whisper", {"seconds": None, "max_seconds": None}, "any number of seconds"),
            ("clap", {"seconds": 12}, "the model reads at most 10"),
            ("clap", {"seconds": None, "max_seconds": 5}, "set `preprocessing.seconds`"),
            ("wav2vec2", {"seconds": 0.01}, "recordings of 0.01 s can be too short"),
            ("wav2vec2", {"step_seconds": 0}, "set `preprocessing.step_seconds` to at least 0.1"),
        ],
    )
    def test_length_that_a_model_does_not_read_is_rejected(
        self,
        pretrained_folder: PretrainedFolder,
        model_type: str,
        preprocessing: dict[str, Any],
        text: str,
    ) -> None:
        folder = pretrained_folder("audio", model_type)
        assert_refused(folder, "audio", text, preprocessing=preprocessing)


class TestModel:
    @pytest.mark.parametrize(
        ("own", "model_type", "kind"),
        [
            ("audio", "whisper", "image"),
            ("image", "vit", "audio"),
            ("text", "bert", "image"),
            ("image", "clip", "audio"),
            ("audio", "clap", "text"),
        ],
    )
    def test_model_of_another_kind_is_rejected(
        self, pretrained_folder: PretrainedFolder, own: str, model_type: str, kind: str
    ) -> None:
        folder = pretrained_folder(own, model_type)
        with pytest.raises(RecipeError, match=rf"^modalities\.input: .* of kind {kind}$") as caught:
            read(folder, kind)
        assert f" is a {model_type}, a model of " in caught.value.message

    def test_fused_clap_is_rejected(self, copy: CopyFolder) -> None:
        folder = copy("audio", "clap")
        edit_json(folder / "config.json", audio_config__enable_fusion=True)
        assert_refused(folder, "audio", "such as laion/clap-htsat-unfused")

    def test_fused_extractor_of_clap_is_rejected(self, copy: CopyFolder) -> None:
        folder = copy("audio", "clap")
        edit_json(folder / "preprocessor_config.json", truncation="fusion")
        assert_refused(folder, "audio", "such as laion/clap-htsat-unfused")

    @pytest.mark.parametrize("kind", ["image", "text"])
    def test_siglip2_of_any_shape_is_rejected(self, copy: CopyFolder, kind: str) -> None:
        folder = copy(kind, "siglip")
        edit_json(folder / "config.json", model_type="siglip2")
        assert_refused(folder, kind, "choose a SigLIP2 of fixed resolution")

    @pytest.mark.parametrize("model_type", ["own", "vit"])
    def test_code_of_a_model_is_not_run(
        self, copy: CopyFolder, tmp_path: Path, model_type: str
    ) -> None:
        folder = copy("image", "vit")
        names = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
        edit_json(folder / "config.json", model_type=model_type, auto_map=names)
        edit_json(
            folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "code.Processor"}
        )
        (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        if model_type == "own":
            assert_refused(folder, "image", "needs code from its own folder, which is not run")
        else:
            # `transformers` has a class of its own for this type.
            assert read(folder, "image").load().width == 32
        assert not (tmp_path / "ran").exists()

    def test_extractor_of_another_size_is_rejected(self, copy: CopyFolder) -> None:
        folder = copy("audio", "whisper")
        edit_json(folder / "preprocessor_config.json", feature_size=128)
        assert_refused(folder, "audio", "the extractor has 128 mel bands, the model 80")

    def test_extractor_of_another_family_is_rejected(self, copy: CopyFolder) -> None:
        folder = copy("audio", "whisper")
        kaldi = {"feature_extractor_type": "ASTFeatureExtractor", "sampling_rate": 16_000}
        (folder / "preprocessor_config.json").write_text(json.dumps(kaldi))
        assert_refused(folder, "audio", "which a whisper needs")

    def test_tokenizer_with_more_tokens_than_the_model_is_rejected(self, copy: CopyFolder) -> None:
        folder = copy("text", "bert")
        edit_json(folder / "config.json", vocab_size=12)
        assert_refused(folder, "text", "has 15 tokens, its model 12; download the model again")


def test_weights_over_the_limit_of_a_graph_are_refused_with_advice(
    pretrained_folder: PretrainedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dimml.nn.pretrained.backbone.MAX_GRAPH_BYTES", 1000)
    text = "GB of weights, but a graph holds at most 2 GB; choose a smaller model of the family"
    assert_refused(pretrained_folder("image", "vit"), "image", text)

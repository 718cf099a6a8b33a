from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dimml import Predictor
from dimml.cli import COMMANDS, main
from tests.conftest import Dimml


def test_help_lists_commands_without_heavy_imports() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from dimml.cli import main, COMMANDS\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'onnxruntime', 'pyarrow', 'bentoml'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "HEAVY []" in done.stdout
    assert all(command.help in done.stdout for command in COMMANDS.values())
    assert "Examples:" in done.stdout


def test_predict_command_agrees_with_the_library(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "dimml", "predict", tiny_bundle, "--text", "seven", "--json"]
    done = subprocess.run([*command, "--providers", "cpu"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = Predictor.load(tiny_bundle, "cpu").predict({"text": "seven"})
    assert json.loads(done.stdout)["probabilities"] == pytest.approx(
        dict(expected.probabilities), abs=1e-5
    )


def test_predict_accepts_modalities_before_and_after_the_bundle(
    tiny_bundle: Path, dimml: Dimml
) -> None:
    options = ["--text", "a//b", "--providers", "cpu", "--json"]
    predictions = []
    for words in (["predict", str(tiny_bundle), *options], ["predict", *options, str(tiny_bundle)]):
        code, out, _ = dimml(*words)
        assert code == 0
        predictions.append(json.loads(out))
    assert predictions[0] == predictions[1]
    expected = Predictor.load(tiny_bundle, "cpu").predict({"text": "a//b"})
    assert predictions[0]["confidence"] == pytest.approx(expected.confidence, abs=1e-5)


def test_predict_says_that_a_file_is_not_read_as_text(
    tiny_bundle: Path, tmp_path: Path, dimml: Dimml
) -> None:
    (tmp_path / "seven.txt").write_text("seven")
    code, _, err = dimml("predict", tiny_bundle, "--text", tmp_path / "seven.txt")
    assert code == 0
    assert "seven.txt is a file, but the text is its name, not its content" in err


def test_predict_accepts_hyphens_in_names_of_modalities(tiny_bundle: Path, dimml: Dimml) -> None:
    code, _, err = dimml("predict", tiny_bundle, "--product-title", "seven")
    assert code == 2
    assert "product_title" in err


def test_predict_without_a_bundle_is_rejected(dimml: Dimml) -> None:
    code, _, err = dimml("predict", "--text", "seven")
    assert code == 2
    assert "expected one bundle, got none" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "at least one of audio, image, text"),
        (("--video", "x"), "video: the bundle has no modality of this name"),
        (("--audio", "nowhere.wav"), "audio: no such file"),
        (("--text",), "--text needs a value"),
        (("--text", "a", "--text", "b"), "--text is given 2 times"),
        (("stray",), ", stray: `dimml predict BUNDLE"),
    ],
)
def test_invalid_predict_arguments_are_rejected(
    tiny_bundle: Path, dimml: Dimml, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = dimml("predict", tiny_bundle, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_inspect_prints_the_manifest(tiny_bundle: Path, dimml: Dimml) -> None:
    _, out, _ = dimml("inspect", tiny_bundle, "--json")
    assert json.loads(out)["labels"] == ["zero", "one", "two", "three"]
    assert "audio: audio, encoder small" in dimml("inspect", tiny_bundle)[1]


def test_inspect_rejects_a_folder_without_a_bundle(tmp_path: Path, dimml: Dimml) -> None:
    code, _, err = dimml("inspect", tmp_path)
    assert code == 2
    assert "dimml export RUN BUNDLE" in err


def test_unknown_command_exits_with_2(dimml: Dimml) -> None:
    assert dimml("predikt")[0] == 2


def test_ctrl_c_prints_stopped_and_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dimml.bundle.Bundle.load", interrupted)
    monkeypatch.setattr("sys.argv", ["dimml", "inspect", "bundle"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 130
    assert capsys.readouterr().err == "Stopped.\n"

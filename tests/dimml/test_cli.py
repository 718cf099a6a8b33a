from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dimml import Predictor
from dimml.cli import main


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from dimml.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from dimml.cli import main, COMMANDS\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'onnxruntime', 'pyarrow', 'bentoml'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "HEAVY []" in answer.stdout
    assert "predict" in answer.stdout
    assert "Examples:" in answer.stdout


def test_predict_gives_the_same_answer_as_the_library(tiny_bundle: Path) -> None:
    answer = run("predict", tiny_bundle, "--text", "seven", "--json", "--providers", "cpu")
    assert answer.returncode == 0, answer.stderr
    expected = Predictor.load(tiny_bundle, "cpu").predict({"text": "seven"})
    assert json.loads(answer.stdout)["probabilities"] == pytest.approx(
        dict(expected.probabilities), abs=1e-5
    )


def test_predict_takes_modalities_on_either_side_of_the_bundle(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--text", "a//b", "--providers", "cpu", "--json"]
    said = []
    for words in (["predict", str(tiny_bundle), *options], ["predict", *options, str(tiny_bundle)]):
        monkeypatch.setattr("sys.argv", ["dimml", *words])
        with pytest.raises(SystemExit) as exited:
            main()
        assert exited.value.code == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    expected = Predictor.load(tiny_bundle, "cpu").predict({"text": "a//b"})
    assert said[0]["confidence"] == pytest.approx(expected.confidence, abs=1e-5)


def test_predict_without_a_bundle_says_so() -> None:
    answer = run("predict", "--text", "seven")
    assert answer.returncode == 2
    assert "name the bundle" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "at least one of audio, image, text"),
        (("--video", "x"), "video: the bundle has no modality of this name"),
        (("--audio", "nowhere.wav"), "audio: no such file"),
        (("--text",), "--text needs a value"),
        (("--text", "a", "--text", "b"), "given twice"),
        (("stray",), "unexpected 'stray'"),
    ],
)
def test_predict_refuses_bad_usage(
    tiny_bundle: Path, arguments: tuple[str, ...], said: str
) -> None:
    answer = run("predict", tiny_bundle, *arguments)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


def test_inspect_shows_the_manifest(tiny_bundle: Path) -> None:
    answer = run("inspect", tiny_bundle, "--json")
    assert json.loads(answer.stdout)["labels"] == ["zero", "one", "two", "three"]
    assert "audio: audio, encoder small" in run("inspect", tiny_bundle).stdout


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    answer = run("inspect", tmp_path)
    assert answer.returncode == 2
    assert "dimml export RUN BUNDLE" in answer.stderr


def test_an_unknown_command_is_bad_usage() -> None:
    assert run("predikt").returncode == 2


def test_ctrl_c_says_that_it_stopped(
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

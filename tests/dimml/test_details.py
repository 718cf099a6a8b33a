"""The answer without each modality: `Predictor.predict(sample, explain=True)`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dimml import InputError, Predictor
from dimml.cli import main
from dimml.details import DetailedPrediction
from tests.dimml.runtime.test_cuda import samples
from tests.serving.media import PNG, WAV


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, providers="cpu")


def explain(predictor: Predictor, sample: dict[str, Any]) -> DetailedPrediction:
    prediction = predictor.predict(sample, explain=True)
    assert isinstance(prediction, DetailedPrediction)
    return prediction


def test_answer_without_a_modality_equals_that_of_the_sample_without_it(
    predictor: Predictor,
) -> None:
    batch = samples(14)
    for sample, prediction in zip(batch, predictor.predict_many(batch, explain=True), strict=True):
        assert isinstance(prediction, DetailedPrediction)
        assert prediction.features is None
        assert prediction.without is not None
        present = [name for name in predictor.kinds if name in sample]
        assert list(prediction.without) == (present if len(present) > 1 else [])
        for name, answer in prediction.without.items():
            rest = predictor.predict({n: v for n, v in sample.items() if n != name})
            assert (answer.label, answer.prediction_set) == (rest.label, rest.prediction_set)
            assert answer.confidence == pytest.approx(rest.confidence, abs=1e-5)


def test_explanation_leaves_the_prediction_as_it_is(predictor: Predictor) -> None:
    sample = samples(7)[6]
    plain, detailed = predictor.predict(sample), explain(predictor, sample)
    assert {k: v for k, v in detailed.to_dict().items() if k not in ("features", "without")} == (
        plain.to_dict()
    )


def test_unreadable_modality_is_not_left_out_again(predictor: Predictor) -> None:
    sample = {**samples(7)[6], "image": b"broken"}
    prediction = predictor.predict(sample, on_unreadable="absent", explain=True)
    assert isinstance(prediction, DetailedPrediction)
    assert set(prediction.without or {}) == set(predictor.kinds) - {"image"}


def test_error_beside_an_explained_sample_stays_an_error(predictor: Predictor) -> None:
    error, prediction = predictor.predict_many([{}, samples(7)[6]], explain=True)
    assert isinstance(error, InputError)
    assert isinstance(prediction, DetailedPrediction)


def test_predict_prints_the_answer_without_each_modality(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    sample = {"audio": WAV, "image": PNG}
    words = [str(tiny_bundle), "--explain", "--text", "seven"]
    for name, content in sample.items():
        (tmp_path / name).write_bytes(content)
        words += [f"--{name}", str(tmp_path / name)]
    for output_option, check in (([], _check_lines), (["--json"], _check_json)):
        monkeypatch.setattr("sys.argv", ["dimml", "predict", *words, *output_option])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        check(capsys.readouterr().out, ["audio", "image", "text"])


def _check_lines(output: str, names: list[str]) -> None:
    lines = [line.strip() for line in output.splitlines()]
    assert [line.split(":")[0] for line in lines if line.startswith("without")] == [
        f"without {name}" for name in names
    ]


def _check_json(output: str, names: list[str]) -> None:
    answers = json.loads(output)["without"]
    assert list(answers) == names
    assert all(set(a) == {"label", "confidence", "prediction_set"} for a in answers.values())

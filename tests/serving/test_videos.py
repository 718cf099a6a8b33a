"""A video answers for its pictures and its sound, in every interface alike."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.testclient import TestClient

from dimml import Predictor
from dimml.errors import InputError
from tests.dimml.modalities.encoded import encode_video
from tests.serving.media import WAV, to_base64

VIDEO, SILENT = encode_video(sound=True), encode_video()
NAMES = ("pictures", "sound", "motion")


@pytest.fixture(scope="module")
def predictor(video_bundle: Path) -> Predictor:
    return Predictor.load(video_bundle, "cpu")


@pytest.fixture(scope="module")
def client(video_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(video_bundle) as client:
        yield client


@pytest.fixture(scope="module")
def expected(predictor: Predictor) -> dict[str, Any]:
    """The answer to the video."""
    return json.loads(json.dumps(predictor.predict({"clip": VIDEO}).to_dict()))


def present(answer: Any) -> list[str]:
    return [name for name, one in answer["modalities"].items() if one["present"]]


def grey(value: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("L", (32, 32), value).save(file, "PNG")
    return file.getvalue()


def same(answer: dict[str, Any], other: dict[str, Any]) -> bool:
    return answer["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_value_of_the_shared_column_is_read_by_both_modalities(
    predictor: Predictor, expected: dict[str, Any]
) -> None:
    assert present(expected) == ["pictures", "sound"]
    both = predictor.predict({"pictures": VIDEO, "sound": VIDEO}).to_dict()
    assert same(both, expected)


def test_open_file_of_the_shared_column_is_read_once(
    predictor: Predictor, expected: dict[str, Any]
) -> None:
    assert same(predictor.predict({"clip": io.BytesIO(VIDEO)}).to_dict(), expected)


def test_silent_video_has_no_sound(predictor: Predictor) -> None:
    answer = predictor.predict({"clip": SILENT}).to_dict()
    assert present(answer) == ["pictures"]
    assert answer["modalities"]["sound"]["warnings"] == ("the video has no sound track",)
    assert answer["modalities"]["sound"]["weight"] == 0
    assert same(answer, predictor.predict({"pictures": SILENT}).to_dict())


def test_silent_video_for_the_sound_alone_has_no_modality(predictor: Predictor) -> None:
    with pytest.raises(InputError) as caught:
        predictor.predict({"sound": SILENT})
    assert caught.value.code == "no_modality"
    assert "sound: the video has no sound track" in caught.value.message


def test_own_value_of_a_modality_comes_before_the_shared_one(predictor: Predictor) -> None:
    answer = predictor.predict({"clip": VIDEO, "sound": None}).to_dict()
    assert present(answer) == ["pictures"]
    answer = predictor.predict({"clip": SILENT, "sound": WAV}).to_dict()
    assert present(answer) == ["pictures", "sound"]


def test_broken_video_is_an_error_or_absent(predictor: Predictor) -> None:
    broken = VIDEO[:200]
    with pytest.raises(InputError) as caught:
        predictor.predict({"clip": broken})
    assert (caught.value.code, caught.value.field) == ("unreadable", "pictures")
    pairs = [grey(1), grey(2)]
    answer = predictor.predict({"clip": broken, "motion": pairs}, on_unreadable="absent").to_dict()
    assert present(answer) == ["motion"]


def test_multipart_json_and_lines_give_the_same_answer(
    client: TestClient, expected: dict[str, Any]
) -> None:
    form = client.post("/predict", files={"clip": ("clip.mp4", VIDEO, "video/mp4")})
    body = {"clip": to_base64(VIDEO)}
    one = client.post("/predict", json=body)
    line = client.post(
        "/predict",
        content=json.dumps(body) + "\n",
        headers={"content-type": "application/x-ndjson"},
    )
    for response in (form, one, line):
        assert response.status_code == 200, response.text
        assert same(response.json(), expected)


def test_pairs_of_flow_are_repeated_parts_in_order(
    client: TestClient, predictor: Predictor
) -> None:
    pictures = [grey(value) for value in (10, 200, 90, 30)]
    parts = [("motion", (f"{n}.png", picture)) for n, picture in enumerate(pictures)]
    response = client.post("/predict", files=parts)
    assert response.status_code == 200
    assert same(response.json(), predictor.predict({"motion": pictures}).to_dict())
    swapped = [parts[1], parts[0], *parts[2:]]
    assert not same(client.post("/predict", files=swapped).json(), response.json())


def test_list_of_pictures_in_the_shared_field_has_no_sound(client: TestClient) -> None:
    parts = [("clip", (f"{n}.png", grey(60 * n))) for n in range(3)]
    for response in (
        client.post("/predict", files=parts),
        client.post("/predict", json={"clip": [to_base64(grey(60 * n)) for n in range(3)]}),
    ):
        assert response.status_code == 200, response.text
        assert present(response.json()) == ["pictures"]


def test_pairs_of_flow_may_be_lists_in_json(client: TestClient) -> None:
    u, v = to_base64(grey(10)), to_base64(grey(200))
    nested = client.post("/predict", json={"motion": [[u, v], [v, u]]}).json()
    assert same(nested, client.post("/predict", json={"motion": [u, v, v, u]}).json())
    deeper = client.post("/predict", json={"motion": [[[u, v]]]})
    assert deeper.status_code == 422


def test_command_line_takes_the_pictures_of_flow_in_order(
    video_bundle: Path, tmp_path: Path, dimml: Any, predictor: Predictor
) -> None:
    paths = [tmp_path / f"{value}.png" for value in (10, 200)]
    for path in paths:
        path.write_bytes(grey(int(path.stem)))
    words = [word for path in paths for word in ("--motion", path)]
    code, output, _ = dimml("predict", video_bundle, *words, "--providers", "cpu", "--json")
    assert code == 0
    answer = json.loads(output.splitlines()[-1])
    assert same(answer, predictor.predict({"motion": [str(path) for path in paths]}).to_dict())


def test_one_picture_of_flow_is_a_clear_error(client: TestClient) -> None:
    response = client.post("/predict", files={"motion": ("u.png", grey(1))})
    assert response.status_code == 400
    assert response.json()["error"]["field"] == "motion"
    assert "pairs of pictures" in response.json()["error"]["message"]


def test_bundle_and_openapi_name_the_shared_field(client: TestClient) -> None:
    bundle = client.get("/bundle").json()
    assert bundle["shared_fields"] == {"clip": ["pictures", "sound"]}
    assert "MP4" in bundle["modalities"]["pictures"]["input"]
    document = client.get("/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]
    fields = body["schema"]["properties"]
    assert list(fields) == [*NAMES, "clip"]
    assert "pictures and sound" in json.dumps(fields["clip"])


def test_command_line_takes_the_shared_column(
    video_bundle: Path, tmp_path: Path, dimml: Any, expected: dict[str, Any]
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(VIDEO)
    code, output, _ = dimml("predict", video_bundle, "--clip", path, "--providers", "cpu", "--json")
    assert code == 0
    # The service of this process writes its request log to the same output.
    assert same(json.loads(output.splitlines()[-1]), expected)


def test_table_of_videos_is_scored(
    video_bundle: Path, tmp_path: Path, dimml: Any, expected: dict[str, Any]
) -> None:
    for name, content in {"a.mp4": VIDEO, "silent.mp4": SILENT, "broken.mp4": VIDEO[:100]}.items():
        (tmp_path / name).write_bytes(content)
    for value in (0, 255):
        (tmp_path / f"{value}.png").write_bytes(grey(value))
    rows = [
        {"id": "a", "clip": "a.mp4"},
        {"id": "silent", "clip": "silent.mp4"},
        {"id": "broken", "clip": "broken.mp4"},
        {"id": "flow", "motion": [["0.png", "255.png"]]},
        {"id": "nothing"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.csv"
    code, _, _ = dimml("score", video_bundle, tmp_path / "in.jsonl", out, "--providers", "cpu")
    assert code == 0
    with out.open(newline="") as file:
        scores = {row["id"]: row for row in csv.DictReader(file)}
    assert scores["a"]["label"] == expected["label"]
    assert float(scores["a"]["confidence"]) == pytest.approx(expected["confidence"], abs=1e-5)
    assert (scores["a"]["sound_present"], scores["silent"]["sound_present"]) == ("true", "false")
    assert scores["silent"]["error_code"] == ""
    assert scores["broken"]["error_code"] == "unreadable"
    assert (scores["flow"]["motion_present"], scores["flow"]["error_code"]) == ("true", "")
    assert scores["nothing"]["error_code"] == "no_modality"


def test_file_with_pictures_alone_has_no_sound(predictor: Predictor) -> None:
    file = io.BytesIO()
    frames = [PIL.Image.new("L", (32, 32), value) for value in (0, 120, 240)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    for clip in (file.getvalue(), [grey(1), grey(2)]):
        answer = predictor.predict({"clip": clip})
        assert present(answer.to_dict()) == ["pictures"]
        assert "no sound" in answer.modalities["sound"].warnings[0]


def test_recording_alone_has_no_pictures(predictor: Predictor) -> None:
    answer = predictor.predict({"clip": WAV})
    assert present(answer.to_dict()) == ["sound"]
    assert answer.modalities["pictures"].warnings == ("the file is WAV, which has no pictures",)


def test_text_for_the_shared_column_is_an_error(predictor: Predictor) -> None:
    with pytest.raises(InputError) as caught:
        predictor.predict({"clip": b"no clip at all"})
    assert caught.value.code == "unsupported_type"

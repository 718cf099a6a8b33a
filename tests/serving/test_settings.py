from __future__ import annotations

import os
from pathlib import Path

import pytest

from dimml.errors import UsageError
from dimml.machine import SOURCE_ROOT
from serving.settings import load_settings


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("DIMML_")]:
        monkeypatch.delenv(name)


def test_defaults_apply_without_environment_variables() -> None:
    settings = load_settings()
    assert settings.bundle == SOURCE_ROOT / "runs/digits/bundle"
    assert (SOURCE_ROOT / "serving/settings.py").is_file()
    assert settings.providers == "auto"
    assert settings.max_body_bytes == 20_000_000
    assert (settings.max_pixels, settings.max_seconds) == (40_000_000, 600)
    assert settings.max_characters == 1_000_000


def test_environment_variables_set_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIMML_BUNDLE", "some/bundle")
    monkeypatch.setenv("DIMML_PROVIDERS", "cpu")
    monkeypatch.setenv("DIMML_WORKERS", "3")
    settings = load_settings()
    assert settings.bundle == tmp_path / "some/bundle"
    assert (settings.providers, settings.workers) == ("cpu", 3)


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMML_BUNDLE", "")
    monkeypatch.setenv("DIMML_WORKERS", "")
    assert load_settings().bundle == SOURCE_ROOT / "runs/digits/bundle"
    assert load_settings().workers is None


@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        ("DIMML_PROVIDERS", "tpu", "auto (CUDA where available), cuda, tensorrt or cpu"),
        ("DIMML_WORKERS", "0", "1 to 256"),
        ("DIMML_WORKERS", "two", "1 to 256"),
        ("DIMML_THREADS", "-1", "1 to 64"),
        ("DIMML_TIMEOUT", "nan", "seconds"),
        ("DIMML_MAX_BODY_BYTES", "20MB", "bytes"),
        ("DIMML_MAX_PIXELS", "1.5", "pixels"),
        ("DIMML_MAX_SECONDS", "inf", "seconds"),
        ("DIMML_MAX_CHARACTERS", "0", "characters"),
    ],
)
def test_error_of_an_invalid_value_names_the_variable_and_the_accepted_values(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, accepted: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError) as error:
        load_settings()
    assert f"{variable}='{value}'" in error.value.message
    assert accepted in error.value.message


def test_error_names_all_invalid_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMML_WORKERS", "x")
    monkeypatch.setenv("DIMML_THREADS", "y")
    with pytest.raises(UsageError, match=r"DIMML_WORKERS.*DIMML_THREADS"):
        load_settings()


def test_cors_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().origins == ()
    monkeypatch.setenv("DIMML_CORS_ORIGINS", "https://a.org, http://localhost:8080,null")
    assert load_settings().origins == ("https://a.org", "http://localhost:8080", "null")
    monkeypatch.setenv("DIMML_CORS_ORIGINS", "*")
    assert load_settings().origins == ("*",)


@pytest.mark.parametrize("origins", ["https://a.org/", "a.org", "https://a.org b.org", "https://"])
def test_cors_origin_that_no_browser_sends_is_rejected(
    monkeypatch: pytest.MonkeyPatch, origins: str
) -> None:
    monkeypatch.setenv("DIMML_CORS_ORIGINS", origins)
    with pytest.raises(UsageError, match=r"DIMML_CORS_ORIGINS.* accepted: origins of pages"):
        load_settings()

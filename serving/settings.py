"""Settings of the service: environment variables with the prefix `DIMML_`, and flags."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from dimml.errors import UsageError

SOURCE_ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds this package: a checkout, or the `src` folder of a built bento."""
# Not `dimml.machine.SOURCE_ROOT`: where `dimml` is installed too, a bento imports that one.

DEFAULT_BUNDLE = "runs/digits/bundle"
PREFIX = "DIMML_"

MACHINE, LIMITS, ACCESS = "Machine", "Caps", "Access and log"
"""The panels of `dimml serve --help`."""

PROVIDER_CHOICES = "auto (CUDA where it can be had), cuda, tensorrt or cpu"
BYTES = "a number of bytes"


def _setting(default: Any, accepted: str, panel: str = "", text: str = "", **bounds: Any) -> Any:
    """Declare a setting.

    Args:
        default: The value without a variable or flag.
        accepted: Completes the sentence "accepted: ..." of an error message.
        panel: The panel of the flag of `dimml serve`; without a panel, there is no flag.
        text: The help text of the flag.
        bounds: Limits of the value, as `pydantic.Field` takes them.
    """
    flag: Any = {"panel": panel, "help": text} if panel else None
    return Field(default, description=accepted, json_schema_extra=flag, **bounds)


def _number(default: Any, what: str, low: int, high: int, panel: str, text: str) -> Any:
    """Declare a whole number from `low` to `high`, see `_setting`."""
    return _setting(default, f"{what}, {low} to {high}", panel, text, ge=low, le=high)


class Settings(BaseSettings):
    """The settings of a service: `DIMML_MAX_PIXELS`, or `dimml serve --max-pixels`.

    An empty variable counts as unset.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True
    )

    bundle: Path = _setting(SOURCE_ROOT / DEFAULT_BUNDLE, "the folder of a bundle")
    providers: Literal["auto", "cuda", "tensorrt", "cpu"] = _setting(
        "auto", PROVIDER_CHOICES, MACHINE, f"{PROVIDER_CHOICES}."
    )
    gpu_memory: int | None = _setting(
        None,
        f"bytes of GPU memory for each graph, {2**20} or more",
        MACHINE,
        "Bytes of GPU memory for each graph; default: no limit.",
        ge=2**20,
        le=2**40,
    )
    tf32: bool = _setting(
        False, "1 or 0", MACHINE, "Let a GPU compute float32 in TF32; default: off."
    )
    cuda_graphs: bool = _setting(
        False, "1 or 0", MACHINE, "Record GPU kernels for the shapes warmed up with; default: off."
    )
    workers: int | None = _number(
        None, "a number of processes", 1, 256, MACHINE, "Processes; default: one per core, or GPU."
    )
    threads: int | None = _number(
        None,
        "a number of threads per worker",
        1,
        64,
        MACHINE,
        "Threads per worker; default: cores per worker.",
    )
    max_batch: int | None = _number(
        None,
        "a number of requests",
        1,
        1024,
        MACHINE,
        "Requests computed together; default: 16, on CUDA 64.",
    )
    queue: int | None = _number(
        None,
        "a number of requests that may wait in a worker",
        1,
        100_000,
        MACHINE,
        "Requests that may wait per worker; default: a batch.",
    )
    timeout: float = _setting(
        60.0,
        "seconds, more than 0 and up to 3600",
        LIMITS,
        "Seconds until a 504; default: 60.",
        gt=0,
        le=3600,
    )
    max_body_bytes: int = _number(
        20_000_000, BYTES, 1_000, 2**31, LIMITS, "Bytes of a request; default: 20,000,000."
    )
    max_part_bytes: int = _number(
        20_000_000, BYTES, 1, 2**31, LIMITS, "Bytes of a file or text; default: 20,000,000."
    )
    max_parts: int = _number(
        16, "a number of parts", 1, 1000, LIMITS, "Parts of a form, beside frames; default: 16."
    )
    max_pixels: int = _number(
        40_000_000,
        "a number of pixels",
        1,
        10**9,
        LIMITS,
        "Pixels of an image; default: 40,000,000.",
    )
    max_seconds: float = _setting(
        600.0,
        "seconds, more than 0 and up to 86400",
        LIMITS,
        "Seconds of a decoded recording; default: 600.",
        gt=0,
        le=86_400,
    )
    max_characters: int = _number(
        20_000, "a number of characters", 1, 10**7, LIMITS, "Characters of a text; default: 20,000."
    )
    # A flag would show the keys in the list of processes.
    api_keys: pydantic.SecretStr = _setting(
        pydantic.SecretStr(""), "keys of 16 characters or more, separated by commas"
    )
    api_keys_file: Path | None = _setting(
        None,
        "a file of keys of 16 characters or more, one a line",
        ACCESS,
        "API keys, one a line; or set DIMML_API_KEYS.",
    )
    allow_anonymous: bool = _setting(
        False, "1 or 0", ACCESS, "Answer other machines although there are no keys."
    )
    rate_limit: float | None = _setting(
        None,
        "requests per second and key, more than 0",
        ACCESS,
        "Requests per second and key; default: none.",
        gt=0,
        le=10**6,
    )
    request_log: bool = _setting(
        True, "1 or 0", ACCESS, "Write a JSON line per request; default: on."
    )

    @pydantic.field_validator("bundle")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        UsageError: If a variable is invalid; the message names it and what is accepted.
    """
    try:
        return Settings()
    except pydantic.ValidationError as error:
        raise UsageError("; ".join(_explain(problem) for problem in error.errors())) from error


@cache
def get_settings() -> Settings:
    """Return the settings of this process, read once."""
    return load_settings()


def _explain(problem: ErrorDetails) -> str:
    name = str(problem["loc"][0])
    accepted = Settings.model_fields[name].description
    # A key must not end up in a log.
    value = "" if name == "api_keys" else f"={problem['input']!r}"
    return f"{PREFIX}{name.upper()}{value} is not valid; accepted: {accepted}"

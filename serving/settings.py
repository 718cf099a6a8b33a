"""Settings of the service, read from environment variables with the prefix `DIMML_`."""

from __future__ import annotations

import importlib.util
import re
from functools import cache, partial
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

_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s]+")
"""What a browser sends as `Origin`, or `*`. It has no path, not even a slash."""

DEFAULT_BUNDLE = "runs/digits/bundle"
PREFIX = "DIMML_"


def _setting(panel: str, text: str, default: Any = None, shown: str = "", **limits: Any) -> Any:
    """Define a setting that `dimml serve` has an option for.

    Args:
        panel: Heading of the option in the help.
        text: Meaning of the value, for the help and for error messages.
        default: Default value.
        shown: Default in the help, where it is not the value itself.
        limits: Range of a number: `ge` or `gt`, and `le`.
    """
    accepted = "1 or 0" if isinstance(default, bool) else text[0].lower() + text[1:]
    if limits:
        lowest = f"{limits['ge']} to" if "ge" in limits else f"more than {limits['gt']} and up to"
        accepted += f", {lowest} {limits['le']}"
    text = f"{text}; default: {shown or f'{default:,}'}."
    option: dict[str, Any] = {"rich_help_panel": panel, "help": text}
    return Field(default=default, description=accepted, json_schema_extra=option, **limits)


def _split(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


_machine = partial(_setting, "Machine")
_cap = partial(_setting, "Caps")
_access = partial(_setting, "Access and log")


class Settings(BaseSettings):
    """The settings, such as `bundle` from `DIMML_BUNDLE`. An empty variable counts as unset.

    `serving.capacity` derives the values that None stands for. `dimml serve` has no option for
    `api_keys`, which all users of the machine would see on the command line.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True
    )

    # A description completes the sentence "accepted: ..." of an error message.
    bundle: Path = Field(default=SOURCE_ROOT / DEFAULT_BUNDLE, description="the folder of a bundle")
    providers: Literal["auto", "cuda", "tensorrt", "cpu"] = _machine(
        "auto (CUDA where available), cuda, tensorrt or cpu", "auto", "auto"
    )
    gpu_memory: int | None = _machine(
        "Bytes of GPU memory for each graph", None, "no limit", ge=2**20, le=2**40
    )
    tf32: bool = _machine("Let a GPU compute float32 in TF32", False, "off")
    cuda_graphs: bool = _machine("Record GPU kernels for the shapes of the warm-up", False, "off")
    workers: int | None = _machine("Processes", None, "one per core, or per GPU", ge=1, le=256)
    threads: int | None = _machine("Threads per worker", None, "cores per worker", ge=1, le=64)
    max_batch: int | None = _machine(
        "Requests computed together", None, "16, on a GPU 64", ge=1, le=1024
    )
    queue: int | None = _machine(
        "Requests that may wait per worker", None, "a batch", ge=1, le=100_000
    )
    timeout: float = _cap("Seconds until a 504", 60, gt=0, le=3600)
    max_body_bytes: int = _cap("Bytes of a request", 20_000_000, ge=1_000, le=2**31)
    max_part_bytes: int = _cap("Bytes of a file or text in it", 20_000_000, ge=1, le=2**31)
    max_parts: int = _cap("Parts of a form", 16, ge=1, le=1000)
    max_lines: int = _cap("Lines of a request of JSON lines", 100_000, ge=1, le=10**9)
    max_pixels: int = _cap("Pixels of an image", 40_000_000, ge=1, le=10**9)
    max_seconds: float = _cap("Seconds of a decoded recording", 600, gt=0, le=86_400)
    max_characters: int = _cap("Characters of a text, the rest is cut", 1_000_000, ge=1, le=10**6)
    ui: bool | None = _setting(
        "Page", "Web page at / (1 or 0)", None, "on if the extra `ui` is installed"
    )
    api_keys: pydantic.SecretStr = Field(
        default=pydantic.SecretStr(""),
        description="keys of 16 characters or more, separated by commas",
    )
    api_keys_file: Path | None = _access(
        "File of API keys, one a line; or set DIMML_API_KEYS", None, "none"
    )
    allow_anonymous: bool = _access("Answer other machines without API keys", False, "off")
    rate_limit: float | None = _access(
        "Requests per second and key", None, "no limit", gt=0, le=10**6
    )
    cors_origins: str = _access(
        "Origins of pages that may call, such as https://a.org (no slash), or *", "", "none"
    )
    request_log: bool = _access("Print a JSON line per request", True, "on")

    @pydantic.field_validator("bundle")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @pydantic.field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, text: str) -> str:
        if not all(_ORIGIN.fullmatch(origin) for origin in _split(text)):
            raise ValueError("not a list of origins")
        return text

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of `cors_origins`."""
        return _split(self.cors_origins)


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        UsageError: If a variable is not valid; the message names all such variables.
    """
    try:
        return Settings()
    except pydantic.ValidationError as error:
        raise UsageError("; ".join(_explain(problem) for problem in error.errors())) from error


def uses_page(settings: Settings) -> bool:
    """Return whether the service has the web page.

    Raises:
        UsageError: If the page is asked for but Gradio is not installed.
    """
    is_installed = importlib.util.find_spec("gradio") is not None
    if settings.ui and not is_installed:
        raise UsageError(
            f"{PREFIX}UI=1 asks for the page, which needs Gradio: run `pip install -e '.[ui]'`"
        )
    return is_installed and settings.ui is not False


@cache
def get_settings() -> Settings:
    """Return the settings of this process, which are read once."""
    return load_settings()


def _explain(problem: ErrorDetails) -> str:
    name = str(problem["loc"][0])
    accepted = Settings.model_fields[name].description
    # A key must not appear in a log.
    value = "" if name == "api_keys" else f"={problem['input']!r}"
    return f"{PREFIX}{name.upper()}{value} is not valid; accepted: {accepted}"

"""Settings of the service: environment variables with the prefix `DIMML_`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

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


class Settings(BaseSettings):
    """What can be set, e.g. `bundle` by `DIMML_BUNDLE`. An empty variable counts as unset.

    Attributes:
        bundle: the bundle's folder, absolute.
        providers: where the graphs run.
        gpu_memory: bytes that each graph of a worker may take of its GPU; None for no limit.
        tf32: whether a GPU may compute float32 products from 10 bits of mantissa.
        cuda_graphs: whether kernels are recorded for the shapes that a worker warms up with.
        workers, threads, max_batch, queue: None for what `serving.capacity` derives.
        timeout: seconds after which a request is answered 504.
        max_body_bytes: of one request.
        max_part_bytes: of one file or text in it.
        max_parts: of one form; a modality of several frames may have more.
        max_pixels: of one image.
        max_seconds: of one recording, as decoded.
        max_characters: of one text.
        api_keys: that open the service, separated by commas.
        api_keys_file: a file of keys, one a line, read again when it changes.
        allow_anonymous: whether other machines are answered though there are no keys.
        rate_limit: requests per second and key, over all workers; None for no limit.
        request_log: whether each request is a JSON line on standard output.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True
    )

    # A description completes the sentence "accepted: ..." of an error message.
    bundle: Annotated[Path, Field(description="the folder of a bundle")] = (
        SOURCE_ROOT / DEFAULT_BUNDLE
    )
    providers: Annotated[
        Literal["auto", "cuda", "tensorrt", "cpu"],
        Field(description="auto (CUDA where it can be had), cuda, tensorrt or cpu"),
    ] = "auto"
    gpu_memory: Annotated[int, Field(ge=2**20, le=2**40)] | None = Field(
        default=None, description="bytes of GPU memory for each graph, 1048576 or more"
    )
    tf32: Annotated[bool, Field(description="1 or 0")] = False
    cuda_graphs: Annotated[bool, Field(description="1 or 0")] = False
    workers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None, description="a number of processes, 1 to 256"
    )
    threads: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="a number of threads per worker, 1 to 64"
    )
    max_batch: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="a number of requests, 1 to 1024"
    )
    queue: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="a number of requests that may wait in a worker, 1 to 100000"
    )
    timeout: Annotated[
        float, Field(gt=0, le=3600, description="seconds, more than 0 and up to 3600")
    ] = 60.0
    max_body_bytes: Annotated[
        int, Field(ge=1_000, le=2**31, description="a number of bytes, 1000 to 2147483648")
    ] = 20_000_000
    max_part_bytes: Annotated[
        int, Field(ge=1, le=2**31, description="a number of bytes, 1 to 2147483648")
    ] = 20_000_000
    max_parts: Annotated[int, Field(ge=1, le=1000, description="a number of parts, 1 to 1000")] = 16
    max_pixels: Annotated[
        int, Field(ge=1, le=10**9, description="a number of pixels, 1 to 1000000000")
    ] = 40_000_000
    max_seconds: Annotated[
        float, Field(gt=0, le=86_400, description="seconds, more than 0 and up to 86400")
    ] = 600.0
    max_characters: Annotated[
        int, Field(ge=1, le=10**7, description="a number of characters, 1 to 10000000")
    ] = 20_000
    api_keys: Annotated[
        pydantic.SecretStr, Field(description="keys of 16 characters or more, separated by commas")
    ] = pydantic.SecretStr("")
    api_keys_file: Path | None = Field(
        default=None, description="a file of keys of 16 characters or more, one a line"
    )
    allow_anonymous: Annotated[bool, Field(description="1 or 0")] = False
    rate_limit: Annotated[float, Field(gt=0, le=10**6)] | None = Field(
        default=None, description="requests per second and key, more than 0"
    )
    request_log: Annotated[bool, Field(description="1 or 0")] = True

    @pydantic.field_validator("bundle")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()


def load_settings() -> Settings:
    """Reads the environment.

    Raises:
        UsageError: a variable is not valid; the message names it and what is accepted.
    """
    try:
        return Settings()
    except pydantic.ValidationError as error:
        raise UsageError("; ".join(_explain(problem) for problem in error.errors())) from error


@cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()


def _explain(problem: ErrorDetails) -> str:
    name = str(problem["loc"][0])
    accepted = Settings.model_fields[name].description
    # A key must not end up in a log.
    value = "" if name == "api_keys" else f"={problem['input']!r}"
    return f"{PREFIX}{name.upper()}{value} is not valid; accepted: {accepted}"

"""`dimml serve`: serve a bundle over HTTP until stopped."""

from __future__ import annotations

import inspect
import os
import shlex
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from dimml.errors import DimmlError, UsageError
from dimml.progress import print_status
from serving.settings import PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from dimml.bundle import Bundle

READY_CHECK_SECONDS = 0.1
_PLACEHOLDERS = {"audio": "FILE.wav", "image": "FILE.png"}


def serve(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    host: Annotated[str, typer.Option(help="IP address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 3000,
    **settings: Any,
) -> None:
    """Serve a bundle over HTTP until stopped with Ctrl-C.

    Each option is also an environment variable: DIMML_MAX_PIXELS for --max-pixels.

    Examples:
        dimml serve runs/digits/bundle

        dimml serve runs/digits/bundle --host 0.0.0.0 --api-keys-file keys.txt --workers 2
    """
    for name, value in {"bundle": bundle, **settings}.items():
        if value is not None:
            # Workers run in another current folder.
            value = value.absolute() if isinstance(value, Path) else value
            os.environ[f"{PREFIX}{name.upper()}"] = str(value)
    loaded = _check()
    address = _check_address(host, port)
    # BentoML empties the metrics folder of its home at start, so two servers need two homes.
    with tempfile.TemporaryDirectory(prefix="dimml-serve-", ignore_cleanup_errors=True) as home:
        os.environ.update(BENTOML_HOME=home, BENTOML_DO_NOT_TRACK="true")
        _run(loaded, address, port)


def _add_settings_options() -> None:
    """Give `serve` an option for every setting that declares a flag."""
    signature = inspect.signature(serve, eval_str=True)
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    for name, field in Settings.model_fields.items():
        if not isinstance(flag := field.json_schema_extra, dict):
            continue
        help_text, panel = str(flag["help"]), str(flag["panel"])
        option = typer.Option(help=help_text, rich_help_panel=panel, show_default=False)
        annotation = Annotated[_option_type(field.annotation) | None, option]  # type: ignore[valid-type]
        keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(name, keyword, default=None, annotation=annotation))
    # Typer reads both.
    serve.__dict__["__signature__"] = signature.replace(parameters=parameters)
    serve.__annotations__ = {p.name: p.annotation for p in parameters}


def _option_type(annotation: Any) -> Any:
    """Return X of X or `X | None`, and str of a Literal, whose words `Settings` checks."""
    candidates = [annotation, *get_args(annotation)]
    types = [t for t in candidates if isinstance(t, type) and t is not type(None)]
    return types[0] if types else str


_add_settings_options()


def _check() -> Bundle:
    """Reject what no worker could serve, before the first worker starts."""
    from dimml.bundle import Bundle
    from serving.capacity import set_worker_provider
    from serving.http.admission import Keys

    settings = load_settings()
    Keys(settings)
    bundle = Bundle.load(settings.bundle)
    set_worker_provider(settings)
    return bundle


def _check_address(host: str, port: int) -> str:
    """Return the IP address of `host`, after checking that the port is free."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise UsageError(f"--host {host}: {error.strerror}; give an IP address") from error
    except OSError as error:
        raise DimmlError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port"
        ) from error
    return str(address[0])


def _run(bundle: Bundle, address: str, port: int) -> None:
    from bentoml.exceptions import BentoMLException

    from serving.service import Dimml
    from serving.settings import SOURCE_ROOT

    service: Any = Dimml

    # Workers import the service again, and must find this one whatever the current folder holds.
    service.working_dir = str(SOURCE_ROOT)
    url = _url(address, port)
    threading.Thread(target=_announce, args=(bundle, url), daemon=True).start()
    try:
        service.serve_http(host=address, port=port)
    except (BentoMLException, OSError, RuntimeError) as error:
        raise DimmlError(f"cannot serve: {error}") from error


def _url(address: str, port: int) -> str:
    host = "localhost" if address in ("127.0.0.1", "0.0.0.0", "::", "::1") else address
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announce(bundle: Bundle, url: str) -> None:
    """Wait until the service is ready, then print how to call it."""
    while not _is_ready(url):
        time.sleep(READY_CHECK_SECONDS)
    print_status(f"Serving {bundle.id} on {url}. Try:")
    for line in _examples(bundle, url):
        print_status("  " + line)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=60) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _examples(bundle: Bundle, url: str) -> list[str]:
    """Return two `curl` command lines with the bundle's own modalities."""
    kinds = {name: spec.kind for name, spec in bundle.manifest.modalities.items()}
    sample = example_sample(bundle)
    parts = [f"-F {shlex.quote(_part(name, sample[name]))}" for name in kinds]
    texts = [name for name, kind in kinds.items() if kind == "text"]
    first = " ".join(["curl", *parts, f"{url}/predict"])
    if not texts:
        return [first, f"curl {url}/bundle"]
    return [first, f"curl -d {shlex.quote(f'{texts[0]}={sample[texts[0]]}')} {url}/predict"]


def _part(name: str, value: Any) -> str:
    return f"{name}=@{value}" if isinstance(value, Path) else f"{name}={value}"


def example_sample(bundle: Bundle) -> dict[str, Any]:
    """Return a test sample of the data beside the bundle, or placeholders."""
    kinds = {name: spec.kind for name, spec in bundle.manifest.modalities.items()}
    table = bundle.path.parent / "data" / "manifest.parquet"
    if table.is_file():
        from dimml.table import read_rows

        for row in read_rows(table, kinds, split="test"):
            if all(isinstance(row.sample[name], str | Path) for name in kinds):
                return dict(row.sample)
    return {
        name: "TEXT" if kind == "text" else Path(_PLACEHOLDERS.get(kind, "FILE"))
        for name, kind in kinds.items()
    }

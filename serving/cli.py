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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin

import typer

from dimml.errors import DimmlError, UsageError
from dimml.interrupt import sigterm_as_ctrl_c
from dimml.progress import print_status
from serving.settings import PREFIX, SOURCE_ROOT, Settings, load_settings

if TYPE_CHECKING:
    from dimml.bundle import Bundle

READY_CHECK_SECONDS = 0.1
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs without the proxy that HTTP_PROXY names, which cannot reach this machine's service."""
_PLACEHOLDERS = {"audio": "FILE.wav", "image": "FILE.png"}


def _with_setting_options(function: Callable[..., None]) -> Callable[..., None]:
    """Replace the `**settings` of a command by an option for each setting."""
    signature = inspect.signature(function, eval_str=True)
    parameters = list(signature.parameters.values())[:-1]
    for name, field in Settings.model_fields.items():
        if isinstance(field.json_schema_extra, dict):
            details: Any = field.json_schema_extra
            option = typer.Option(None, show_default=False, **details)
            # `Settings` checks a choice, and its error message lists the choices.
            kind: Any = str if get_origin(field.annotation) is Literal else field.annotation
            keyword = inspect.Parameter.KEYWORD_ONLY
            parameter = inspect.Parameter(name, keyword, default=option, annotation=kind | None)
            parameters.append(parameter)
    function.__dict__["__signature__"] = signature.replace(parameters=parameters)
    return function


@_with_setting_options
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
    # The workers read the settings from their environment, and have another working directory.
    for name, value in {"bundle": bundle, **settings}.items():
        if value is not None:
            value = value.absolute() if isinstance(value, Path) else value
            os.environ[PREFIX + name.upper()] = str(value)
    # As process 1 of a container, the command would ignore SIGTERM until BentoML handles it.
    with sigterm_as_ctrl_c():
        loaded = _check()
        address = _check_address(host, port)
        # BentoML wipes the metrics folder of its home at each start, so two servers need two homes.
        with tempfile.TemporaryDirectory(prefix="dimml-serve-", ignore_cleanup_errors=True) as home:
            os.environ["BENTOML_HOME"] = home
            # Files that people upload on the page are deleted with the server.
            os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(home, "page")))
            _run(loaded, address, port)


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
        with _DIRECT.open(f"{url}/readyz", timeout=60) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _examples(bundle: Bundle, url: str) -> list[str]:
    """Return two `curl` command lines with the bundle's own modalities."""
    sample = example_sample(bundle)
    for column, names in bundle.shared_columns.items():
        # One field stands for all modalities that read the column.
        sample = {column if n in names else n: value for n, value in sample.items()}
    words = {
        name: f"{name}=@{value}" if isinstance(value, Path) else f"{name}={value}"
        for name, value in sample.items()
    }
    parts = " ".join(f"-F {shlex.quote(word)}" for word in words.values())
    texts = [shlex.quote(words[n]) for n, value in sample.items() if not isinstance(value, Path)]
    second = f"curl -d {texts[0]} {url}/predict" if texts else f"curl {url}/bundle"
    return [f"curl {parts} {url}/predict", second]


def example_sample(bundle: Bundle) -> dict[str, Any]:
    """Return a test sample of the data beside the bundle, or placeholders."""
    kinds = {name: spec.kind for name, spec in bundle.manifest.modalities.items()}
    table = bundle.path.parent / "data" / "manifest.parquet"
    if table.is_file():
        from dimml.table import TableSource, read_rows

        source = TableSource(table, kinds, bundle.manifest.table)
        for row in read_rows(source, split="test"):
            if all(isinstance(row.sample[name], str | Path) for name in kinds):
                return dict(row.sample)
    return {
        name: "TEXT" if kind == "text" else Path(_PLACEHOLDERS.get(kind, "FILE"))
        for name, kind in kinds.items()
    }

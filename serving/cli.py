"""`dimml serve`: a bundle over HTTP, until stopped."""

from __future__ import annotations

import os
import shlex
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimml.errors import DimmlError, UsageError
from dimml.progress import print_status

if TYPE_CHECKING:
    from dimml.bundle import Bundle

_POLL_SECONDS = 0.1
_PLACEHOLDERS = {"audio": "FILE.wav", "image": "FILE.png"}
_MACHINE, _CAPS, _ACCESS = "Machine", "Caps", "Access and log"


def _option(text: str, panel: str) -> Any:
    return typer.Option(help=text, rich_help_panel=panel, show_default=False)


def serve(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    host: Annotated[str, typer.Option(help="IP address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 3000,
    providers: Annotated[
        str | None, _option("auto (CUDA where it can be had), cuda, tensorrt or cpu.", _MACHINE)
    ] = None,
    gpu_memory: Annotated[
        int | None, _option("Bytes of GPU memory for each graph; default: no limit.", _MACHINE)
    ] = None,
    tf32: Annotated[
        bool | None, _option("Let a GPU compute float32 in TF32; default: off.", _MACHINE)
    ] = None,
    cuda_graphs: Annotated[
        bool | None,
        _option("Record GPU kernels for the shapes warmed up with; default: off.", _MACHINE),
    ] = None,
    workers: Annotated[
        int | None, _option("Processes; default: one per core, or per GPU.", _MACHINE)
    ] = None,
    threads: Annotated[
        int | None, _option("Threads per worker; default: cores per worker.", _MACHINE)
    ] = None,
    max_batch: Annotated[
        int | None, _option("Requests computed together; default: 16, on CUDA 64.", _MACHINE)
    ] = None,
    queue: Annotated[
        int | None, _option("Requests that may wait per worker; default: a batch.", _MACHINE)
    ] = None,
    timeout: Annotated[float | None, _option("Seconds until a 504; default: 60.", _CAPS)] = None,
    max_body_bytes: Annotated[
        int | None, _option("Of a request; default: 20,000,000.", _CAPS)
    ] = None,
    max_part_bytes: Annotated[
        int | None, _option("Of a file or text in it; default: 20,000,000.", _CAPS)
    ] = None,
    max_parts: Annotated[int | None, _option("Of a form; default: 16.", _CAPS)] = None,
    max_pixels: Annotated[int | None, _option("Of an image; default: 40,000,000.", _CAPS)] = None,
    max_seconds: Annotated[
        float | None, _option("Of a recording, decoded; default: 600.", _CAPS)
    ] = None,
    max_characters: Annotated[int | None, _option("Of a text; default: 20,000.", _CAPS)] = None,
    api_keys_file: Annotated[
        Path | None, _option("API keys, one a line; or set DIMML_API_KEYS.", _ACCESS)
    ] = None,
    allow_anonymous: Annotated[
        bool | None, _option("Answer other machines though there are no keys.", _ACCESS)
    ] = None,
    rate_limit: Annotated[
        float | None, _option("Requests per second and key; default: none.", _ACCESS)
    ] = None,
    request_log: Annotated[
        bool | None, _option("A JSON line per request; default: on.", _ACCESS)
    ] = None,
) -> None:
    """Serve a bundle over HTTP until stopped with Ctrl-C.

    Each option is also an environment variable: DIMML_MAX_PIXELS for --max-pixels.

    Examples:
        dimml serve runs/digits/bundle

        dimml serve runs/digits/bundle --host 0.0.0.0 --api-keys-file keys.txt --workers 2
    """
    for name, value in locals().copy().items():
        if name not in ("host", "port") and value is not None:
            # Workers have another current folder.
            value = value.absolute() if isinstance(value, Path) else value
            os.environ[f"DIMML_{name.upper()}"] = str(value)
    loaded = _check()
    address = _check_address(host, port)
    # BentoML wipes the metrics folder of its home as it starts: two servers need two homes.
    with tempfile.TemporaryDirectory(prefix="dimml-serve-", ignore_cleanup_errors=True) as home:
        os.environ.update(BENTOML_HOME=home, BENTOML_DO_NOT_TRACK="true")
        _run(loaded, address, port)


def _check() -> Bundle:
    """Refuses what no worker could serve, before any starts."""
    from dimml.bundle import Bundle
    from serving.capacity import settle
    from serving.http.admission import Keys
    from serving.settings import load_settings

    settings = load_settings()
    Keys(settings)
    bundle = Bundle.load(settings.bundle)
    settle(settings)
    return bundle


def _check_address(host: str, port: int) -> str:
    """The IP address of `host`, which can be listened on."""
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

    # Workers import the service anew, and must find this one whatever the current folder holds.
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
    """Waits until the service answers, then says how to ask it."""
    while not _is_ready(url):
        time.sleep(_POLL_SECONDS)
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
    """Two `curl` command lines with the bundle's own modalities."""
    kinds = {name: spec.kind for name, spec in bundle.manifest.modalities.items()}
    sample = sample_of(bundle)
    parts = [f"-F {shlex.quote(_part(name, sample[name]))}" for name in kinds]
    texts = [name for name, kind in kinds.items() if kind == "text"]
    first = " ".join(["curl", *parts, f"{url}/predict"])
    if not texts:
        return [first, f"curl {url}/bundle"]
    return [first, f"curl -d {shlex.quote(f'{texts[0]}={sample[texts[0]]}')} {url}/predict"]


def _part(name: str, value: Any) -> str:
    return f"{name}=@{value}" if isinstance(value, Path) else f"{name}={value}"


def sample_of(bundle: Bundle) -> dict[str, Any]:
    """A sample of the bundle's data where that lies beside it, else placeholders."""
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

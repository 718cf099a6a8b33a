"""The image: its files, and its start by another user in a read-only root with nothing but them."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serving.conftest import free_port

ROOT = Path(__file__).resolve().parent.parent
KEY = "correct-horse-battery-staple"
READY_SECONDS = 60
HEALTH_PATHS = ("/livez", "/readyz")


def instructions() -> list[tuple[str, str]]:
    """Return the keyword and the rest of each instruction of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def last_stage() -> list[tuple[str, str]]:
    """Return the instructions after the last FROM."""
    everything = instructions()
    start = max(i for i, (keyword, _) in enumerate(everything) if keyword == "FROM")
    return everything[start + 1 :]


def value_of(keyword: str) -> str:
    """Return the one value of an instruction of the last stage."""
    (value,) = (value for name, value in last_stage() if name == keyword)
    return value


def copied_sources(stage: list[tuple[str, str]]) -> list[str]:
    """Return the files and folders of the checkout that a stage copies."""
    copies = [value.split()[:-1] for keyword, value in stage if keyword == "COPY"]
    return [name for names in copies for name in names if not names[0].startswith("--from")]


def ignore_rules() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


class TestFiles:
    def test_build_gets_only_the_files_that_it_copies(self) -> None:
        first, *others = ignore_rules()
        admitted = {rule[1:] for rule in others if rule.startswith("!")}
        # Without the first rule, the build would get bundles, keys, .venv and .git.
        assert first == "*"
        assert admitted == {name.split("/")[0] for name in copied_sources(instructions())}
        assert all((ROOT / name).exists() for name in copied_sources(instructions()))

    def test_packages_are_pinned_and_only_those_of_serving(self) -> None:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        commands = [value for keyword, value in instructions() if keyword == "RUN"]
        installs = [command for command in commands if " install " in command]
        assert len(installs) == 2
        for command in installs:
            assert "--constraint constraints.txt" in command
            names = re.findall(r"\.\[([\w,]+)\]", command)[0].split(",")
            assert set(names) <= set(extras["optional-dependencies"]) & {"serve", "cuda"}

    def test_every_variant_has_its_packages(self) -> None:
        stages = re.findall(r"AS (packages-\w+)", (ROOT / "Dockerfile").read_text())
        variants = set(re.findall(r"VARIANT[=:] ?(\w+)", _documents()))
        assert {f"packages-{variant}" for variant in variants} == set(stages)

    def test_user_is_a_number_and_not_root(self) -> None:
        assert all(int(number) > 0 for number in value_of("USER").split(":"))


def _documents() -> str:
    names = ("Dockerfile", "docs/containers.md", "compose.gpu.yaml")
    return "\n".join((ROOT / name).read_text() for name in names)


class Container:
    """The command of the image as process 1 of a read-only root.

    The root has the files that the image copies, the Python of this test in place of the one of the
    image, the mounted bundle, and a `/tmp` of its own.
    """

    def __init__(self, folder: Path, bundle: Path) -> None:
        self._port = free_port()
        self._log = (folder / "log").open("w+b")
        app, root, secrets = folder / "app", folder / "root", folder / "secrets"
        _copy_sources(app)
        root.mkdir()
        secrets.mkdir()
        (secrets / "key").write_text(KEY)
        mounts = {"/app": app, "/bundle": bundle, "/run/secrets": secrets}
        command = [*json.loads(value_of("ENTRYPOINT")), *json.loads(value_of("CMD"))]
        script = _mount_script(root, mounts, [*command, "--port", str(self._port)])
        self._parent = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "sh", "-ec", script],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=30)

    @property
    def process(self) -> psutil.Process:
        """Process 1, as seen from outside."""
        return psutil.Process(self._parent.pid).children()[0]

    def wait_until_ready(self) -> None:
        """Return when the service is ready; fail after a minute or if process 1 ends."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._parent.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if self.client.get("/readyz").status_code == 200:
                    return
            time.sleep(0.1)
        raise AssertionError(f"the container is not ready: {self.log()}")

    def is_healthy(self) -> bool:
        """Run the health check of the image."""
        check = json.loads(value_of("HEALTHCHECK").partition(" CMD ")[2])
        words = [word.replace("3000", str(self._port)) for word in check]
        done = subprocess.run([sys.executable, *words[1:]], capture_output=True)
        return done.returncode == 0

    def log(self) -> str:
        """Return what the container has printed."""
        self._log.seek(0)
        return self._log.read().decode()

    def stop(self) -> int:
        """Send SIGTERM to process 1, as `docker stop` does, and return its exit status."""
        self.process.terminate()
        return self._parent.wait(timeout=30)

    def close(self) -> None:
        """Kill what still runs; the kernel ends the other processes with process 1."""
        self.client.close()
        if self._parent.poll() is None:
            self.process.kill()
            self._parent.wait(timeout=30)
        self._log.close()


def _copy_sources(app: Path) -> None:
    patterns = [rule.removeprefix("**/") for rule in ignore_rules()[1:] if rule[0] != "!"]

    def ignored(folder: str, names: list[str]) -> set[str]:
        parent = Path(folder).relative_to(ROOT)
        return {
            name
            for name in names
            if any(fnmatch.fnmatch(name, p) or str(parent / name) == p for p in patterns)
        }

    for name in copied_sources(last_stage()):
        shutil.copytree(ROOT / name, app / name, ignore=ignored)


def _mount_script(root: Path, mounts: dict[str, Path], command: list[str]) -> str:
    """Return a script that enters the root and runs a command as the user of the image."""
    # ldconfig in /sbin finds the system's libsndfile, where the wheel of soundfile has none.
    system = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/dev"]
    folders = [*system, sys.base_prefix, sys.prefix]
    host = {folder: Path(folder) for folder in folders if Path(folder).exists()}
    lines = [
        "umask 022",
        f"mount -t tmpfs tmpfs {root}",
        f"mkdir {root}/tmp {root}/proc",
        # It comes before the others, because this checkout may lie below /tmp.
        f"mount -t tmpfs -o mode=1777,nosuid,noexec,size=64m tmpfs {root}/tmp",
    ]
    for target, source in {**host, **mounts}.items():
        place = shlex.quote(f"{root}{target}")
        lines += [f"mkdir -p {place}", f"mount --bind -o ro {shlex.quote(str(source))} {place}"]
    environment = {
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        # In the image, an editable installation points to /app.
        "PYTHONPATH": "/app",
        "HOME": re.findall(r"HOME=(\S+)", value_of("ENV"))[0],
        "DIMML_API_KEYS_FILE": "/run/secrets/key",
        "DIMML_PROVIDERS": "cpu",
        "DIMML_WORKERS": "1",
        # The image lacks Gradio, which the Python of this test may have.
        "DIMML_UI": "0",
        # Docker passes the proxies of its configuration on to containers.
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    variables = [f"{name}={value}" for name, value in environment.items()]
    words = shlex.join(["env", "-i", "-C", value_of("WORKDIR"), *variables, *command])
    return "\n".join(
        [
            *lines,
            f"mount -t proc proc {root}/proc",
            f"mount -o remount,ro {root}",
            f"exec chroot --userspec={value_of('USER')} {root} {words}",
        ]
    )


def _can_make_namespaces() -> bool:
    with contextlib.suppress(OSError):
        command = ["unshare", "--mount", "--pid", "--fork", "true"]
        return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    return False


@pytest.mark.skipif(not _can_make_namespaces(), reason="only root may make another root folder")
class TestStart:
    @pytest.fixture
    def start(self, tiny_bundle: Path, tmp_path: Path) -> Iterator[Callable[[], Container]]:
        started: list[Container] = []

        def start() -> Container:
            started.append(Container(tmp_path, tiny_bundle))
            return started[-1]

        yield start
        for container in started:
            container.close()

    def test_mounted_bundle_is_served_from_a_read_only_root(
        self, start: Callable[[], Container]
    ) -> None:
        container = start()
        assert not container.is_healthy()
        container.wait_until_ready()
        assert container.is_healthy()

        mounts = Path(f"/proc/{container.process.pid}/mounts").read_text().splitlines()
        writable = [line.split()[1] for line in mounts if "rw" in line.split()[3].split(",")]
        assert [place for place in writable if place != "/proc"] == ["/tmp"]
        assert container.process.uids().real == int(value_of("USER").split(":")[0])
        self._check_answers(container.client)
        assert "Try:" in container.log()

        assert container.stop() == 0
        assert "Traceback" not in container.log()

    def _check_answers(self, client: httpx.Client) -> None:
        key = {"Authorization": f"Bearer {KEY}"}
        answer = client.post("/predict", data={"text": "seven"}, headers=key)
        assert answer.status_code == 200
        assert answer.json()["bundle"].startswith("tiny@")
        for path in HEALTH_PATHS:
            assert client.get(path).status_code == 200
        assert client.get("/metrics").status_code == 401
        metrics = client.get("/metrics", headers=key).text
        assert "\ndimml_queue_depth 0.0\n" in metrics
        assert '\ndimml_requests_total{status="200"} ' in metrics

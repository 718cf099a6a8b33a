"""What `make` installs, by which installer, and in which build of PyTorch."""

from __future__ import annotations

import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import install

ROOT = Path(__file__).resolve().parent.parent


class IndexHandler(BaseHTTPRequestHandler):
    """Answers as PyTorch's index does, which has no other build than these."""

    def do_HEAD(self) -> None:
        known = self.path in ("/whl/cpu/torch/", "/whl/cu128/torch/")
        self.send_response(200 if known else 403)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch's index, in reach."""
    with HTTPServer(("127.0.0.1", 0), IndexHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setattr(install, "PYTORCH_INDEX", f"http://127.0.0.1:{server.server_port}/whl")
        yield
        server.shutdown()
        thread.join()


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's index, out of reach: nothing listens on the port."""
    monkeypatch.setattr(install, "PYTORCH_INDEX", "http://127.0.0.1:9/whl")


@pytest.fixture
def linux_without_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install.platform, "system", lambda: "Linux")
    add_nvidia_smi(monkeypatch, tmp_path, status=9)


def add_nvidia_smi(monkeypatch: pytest.MonkeyPatch, folder: Path, status: int) -> None:
    """Put an `nvidia-smi` on the path that exits with a status."""
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\nexit {status}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that the installer runs, all with success."""
    return record_commands(monkeypatch, failing="nothing")


def record_commands(monkeypatch: pytest.MonkeyPatch, failing: str) -> list[tuple[str, ...]]:
    """Record the commands instead of running them; those that hold a word fail."""
    recorded: list[tuple[str, ...]] = []

    def run(*command: str, environment: object = None) -> int:
        recorded.append(command[1:])
        return int(failing in command)

    monkeypatch.setattr(install, "run", run)
    return recorded


@pytest.mark.usefixtures("linux_without_gpu", "index")
class TestChooseBuild:
    def test_machine_without_gpu_gets_the_cpu_build(self) -> None:
        assert install.choose_build("auto") == "cpu"

    def test_machine_without_nvidia_smi_gets_the_cpu_build(self, tmp_path: Path) -> None:
        (tmp_path / "nvidia-smi").unlink()
        assert install.choose_build("auto") == "cpu"

    def test_machine_whose_nvidia_smi_works_gets_the_cuda_build(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        add_nvidia_smi(monkeypatch, tmp_path, status=0)
        assert install.choose_build("auto") == install.CUDA

    def test_cpu_build_can_be_chosen_despite_a_gpu(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        add_nvidia_smi(monkeypatch, tmp_path, status=0)
        assert install.choose_build("cpu") == "cpu"

    @pytest.mark.parametrize("build", ["cuda", "cu128"])
    def test_cuda_build_can_be_chosen_without_a_gpu(self, build: str) -> None:
        assert install.choose_build(build) == build

    def test_unknown_build_is_rejected(self) -> None:
        with pytest.raises(ValueError, match=r"'gpu'.*accepted are auto, cpu, cuda"):
            install.choose_build("gpu")

    @pytest.mark.parametrize("wanted", ["auto", "cpu"])
    def test_other_systems_get_the_only_build(
        self, monkeypatch: pytest.MonkeyPatch, wanted: str
    ) -> None:
        monkeypatch.setattr(install.platform, "system", lambda: "Darwin")
        assert install.choose_build(wanted) == install.ANY


@pytest.mark.usefixtures("linux_without_gpu", "no_index")
class TestIndexOutOfReach:
    def test_cpu_build_comes_from_the_sources_of_pip(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert install.choose_build("auto") == install.ANY
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert "pip's own sources" in printed
        assert "does not answer" in printed

    def test_other_build_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit_status:
            install.main(["--torch", "rocm6.4", "serve"])
        assert exit_status.value.code == 2
        assert "'rocm6.4' of PyTorch cannot be had" in capsys.readouterr().err


class TestInstall:
    def test_uv_takes_the_build_from_the_index_of_pytorch(
        self, commands: list[tuple[str, ...]]
    ) -> None:
        assert install.install(["train", "serve"], "cu128") == 0
        *_, bootstrap, last = commands
        assert bootstrap[-1] == "uv"
        assert last[:4] == ("-m", "uv", "pip", "install")
        assert last[last.index("--torch-backend") + 1] == "cu128"
        assert last[-1] == f"{ROOT}[train,serve]"

    @pytest.mark.parametrize("build", [install.CUDA, install.ANY])
    def test_builds_of_the_package_index_need_no_other_index(
        self, commands: list[tuple[str, ...]], build: str
    ) -> None:
        assert install.install(["train"], build) == 0
        assert "--torch-backend" not in commands[-1]

    def test_every_installation_is_constrained(self, commands: list[tuple[str, ...]]) -> None:
        install.install(["train"], install.ANY)
        assert len(commands) == 2
        for command in commands:
            assert command[command.index("--constraint") + 1] == f"{ROOT}/constraints.txt"

    @pytest.mark.parametrize("failing", ["uv", "--python"], ids=["no-uv", "uv-fails"])
    def test_pip_installs_where_uv_cannot(
        self, monkeypatch: pytest.MonkeyPatch, failing: str
    ) -> None:
        commands = record_commands(monkeypatch, failing)
        monkeypatch.setattr(install, "is_other_build", lambda build: False)
        assert install.install(["train"], "cpu") == 0
        last = commands[-1]
        assert last[:3] == ("-m", "pip", "install")
        assert last[last.index("--extra-index-url") + 1] == f"{install.PYTORCH_INDEX}/cpu"
        assert last[-1] == f"{ROOT}[train]"

    def test_failure_of_pip_is_the_exit_status(self, monkeypatch: pytest.MonkeyPatch) -> None:
        record_commands(monkeypatch, failing="install")
        monkeypatch.setattr(install, "is_other_build", lambda build: False)
        assert install.install(["train"], install.ANY) == 1

    def test_commands_are_shown_and_their_status_is_returned(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert install.run(sys.executable, "-c", "raise SystemExit(7)") == 7
        assert "raise SystemExit(7)" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("installed", "build", "other"),
        [
            ("2.13.0+cpu", "cpu", False),
            ("2.13.0+cpu", "cu128", True),
            ("2.13.0+cpu", install.CUDA, True),
            ("2.13.0+cpu", install.ANY, False),
            ("2.13.0", "cpu", True),
            ("2.13.0", install.CUDA, False),
        ],
    )
    def test_torch_of_another_build_is_removed_first(
        self,
        monkeypatch: pytest.MonkeyPatch,
        commands: list[tuple[str, ...]],
        installed: str,
        build: str,
        other: bool,
    ) -> None:
        monkeypatch.setattr(install, "version", lambda package: installed)
        install.install(["train"], build)
        assert (commands[0][-2:] == ("--yes", "torch")) == other


class TestPython:
    @pytest.mark.parametrize("version", [(3, 10, 9), (3, 15, 0)])
    def test_version_out_of_range_is_refused(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        commands: list[tuple[str, ...]],
        version: tuple[int, ...],
    ) -> None:
        monkeypatch.setattr(install.sys, "version_info", version)
        for arguments in (["--environment", ".venv"], ["--torch", "cpu", "serve"]):
            with pytest.raises(SystemExit) as exit_status:
                install.main(arguments)
            assert exit_status.value.code == 2
            printed = capsys.readouterr().err
            assert f"is Python 3.{version[1]}, and dimml needs 3.11 to 3.14: name" in printed
        assert commands == []

    def test_range_is_that_of_the_package(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        (_, oldest), (major, newest) = install.OLDEST_PYTHON, install.NEWEST_PYTHON
        assert project["requires-python"] == f">={major}.{oldest},<{major}.{newest + 1}"
        versions = [f"{major}.{minor}" for minor in range(oldest, newest + 1)]
        named = [c.rpartition(" ")[2] for c in project["classifiers"] if "Python :: 3." in c]
        assert named == versions

    def test_environment_is_created_by_the_python_that_is_asked_for(
        self, commands: list[tuple[str, ...]], tmp_path: Path
    ) -> None:
        assert install.main(["--environment", str(tmp_path / "new")]) == 0
        assert commands == [("-m", "venv", str(tmp_path / "new"))]

    @pytest.mark.parametrize("suffix", ["", "t"], ids=["usual", "free-threaded"])
    def test_environment_of_the_same_version_is_kept(
        self, commands: list[tuple[str, ...]], tmp_path: Path, suffix: str
    ) -> None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        add_environment(tmp_path, version + suffix)
        assert install.main(["--environment", str(tmp_path)]) == 0
        assert commands == []

    def test_environment_of_another_version_is_refused(
        self,
        commands: list[tuple[str, ...]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        add_environment(tmp_path, "3.10")
        with pytest.raises(SystemExit):
            install.main(["--environment", str(tmp_path)])
        assert "is an environment of another Python than" in capsys.readouterr().err
        assert commands == []


def add_environment(folder: Path, version: str) -> None:
    """Write the files by which an environment shows its version of Python."""
    (folder / "pyvenv.cfg").touch()
    (folder / "lib" / f"python{version}").mkdir(parents=True)


class TestSourcesOfPip:
    def test_uv_gets_them(self) -> None:
        configuration = (
            "global.cert='/certificates.pem'\n"
            "global.extra-index-url='file:///a file:///b'\n"
            "global.find-links='/wheels\\n/more'\n"
            "global.index-url='http://mirror.test/simple'\n"
            "global.timeout='9'\n"
        )
        assert install.uv_variables(configuration) == {
            "SSL_CERT_FILE": "/certificates.pem",
            "UV_INDEX": "file:///a file:///b",
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            "UV_FIND_LINKS": "/wheels,/more",
            "UV_DEFAULT_INDEX": "http://mirror.test/simple",
        }

    def test_environment_beats_files(self) -> None:
        lines = (":env:.find-links='/env'", "global.find-links='/file'", "download.cert='/x'")
        assert install.uv_variables("\n".join(lines)) == {"UV_FIND_LINKS": "/env"}

    def test_no_configuration_changes_nothing(self) -> None:
        assert install.uv_variables("") == {}

"""Commands beside files named like packages of dimml, and reports of libraries that are off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dimml.machine import SOURCE_ROOT
from dimml.startup import NO_REPORTS, import_from_source
from tests.user_folder import UserFolder


@pytest.fixture
def user(tmp_path: Path) -> UserFolder:
    return UserFolder(tmp_path)


@pytest.mark.parametrize("command", ["train", "export", "serve", "score", "evaluate", "compare"])
def test_command_imports_its_package_in_place_of_a_file_of_the_user(
    user: UserFolder, command: str
) -> None:
    done = user.run("-m", "dimml", command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout
    assert user.imported_files() == []


def test_file_that_a_program_imported_before_the_command_is_named(user: UserFolder) -> None:
    program = "import train, sys\nsys.argv = ['dimml', 'train', '--help']\n"
    done = user.run("-c", program + "from dimml.cli import main\nmain()")
    assert done.returncode == 2
    assert f"{user.path}/train.py is imported as 'train'" in done.stderr
    assert "rename the file" in done.stderr


def test_user_may_import_a_train_file_beside_the_library(user: UserFolder) -> None:
    done = user.run("-c", "from dimml import Predictor\nimport train\nprint(train.__file__)")
    assert done.stdout.strip() == str(user.path / "train.py")


@pytest.mark.parametrize(
    ("given", "used"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_threads_of_openmp_wait_passively_unless_the_user_says_otherwise(
    user: UserFolder, given: dict[str, str], used: str
) -> None:
    program = "import dimml, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    assert user.run("-c", program, **given).stdout.split() == [used, "False"]


def test_predictor_of_a_program_writes_nothing_into_the_home(
    user: UserFolder, tiny_bundle: Path
) -> None:
    load = f"Predictor.load({str(tiny_bundle)!r}, 'cpu').predict({{'text': 'seven'}})"
    done = user.run("-c", f"from dimml.predictor import Predictor\n{load}")
    assert done.returncode == 0, done.stderr
    assert user.files_at_home() == []


def test_onnxruntime_writes_a_device_id_where_reports_are_on(
    user: UserFolder, tiny_bundle: Path
) -> None:
    # A variable that the user sets is kept, and shows here that these tests see a report.
    user.run("-m", "dimml", "predict", tiny_bundle, "--text", "x", ORT_DISABLE_TELEMETRY="0")
    assert any("deviceid" in name for name in user.files_at_home())


@pytest.mark.parametrize(
    "module",
    ["train.trainer", "export.quantize", "serving.service", "serving.offline.ray_engine"],
)
def test_reports_are_off_before_a_package_imports_its_libraries(module: str) -> None:
    program = f"""
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("onnxruntime", "bentoml", "ray", "huggingface_hub"):
            print(name, [n for n in {list(NO_REPORTS)!r} if n not in os.environ])

sys.meta_path.insert(0, Watch())
import {module}
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE_ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.endswith("]")]
    assert lines
    assert all(line.endswith("[]") for line in lines), lines


def test_ray_sends_no_usage_statistics() -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    program = "import dimml\nfrom ray._common.usage import usage_lib as u\n"
    done = subprocess.run(
        [sys.executable, "-c", program + "print(u.usage_stats_enabled())"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE_ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False"]


def test_empty_variable_switches_reports_off(user: UserFolder) -> None:
    program = "import dimml, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert user.run("-c", program, ORT_DISABLE_TELEMETRY="").stdout.strip() == "1"


def test_source_root_comes_first_in_this_process_and_its_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", ["/somewhere", *sys.path])
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    import_from_source()
    assert sys.path[0] == str(SOURCE_ROOT)
    assert os.environ["PYTHONPATH"] == os.pathsep.join([str(SOURCE_ROOT), "/somewhere"])

"""compose.yaml and docs/kubernetes.yaml name what the image, the service and each other have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.settings import DEFAULT_BUNDLE, PREFIX, Settings
from tests.serving.test_docs import metric_names
from tests.test_container import HEALTH_PATHS, ROOT, value_of

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
GPU = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())
OBJECTS = {
    document["kind"]: document
    for document in yaml.safe_load_all((ROOT / "docs/kubernetes.yaml").read_text())
}
PORT = int(value_of("EXPOSE"))
BUNDLE_FOLDER = json.loads(value_of("CMD"))[1]


def default_of(text: str) -> str:
    """Return the default of `${NAME:-default}`."""
    return re.sub(r"\$\{\w+:-(.*)\}", r"\1", text)


def config_of(name: str) -> Any:
    """Return the content of a file that compose.yaml writes."""
    return yaml.safe_load(COMPOSE["configs"][name]["content"])


class TestCompose:
    service = COMPOSE["services"]["dimml"]

    def test_service_cannot_change_its_image_or_gain_rights(self) -> None:
        assert self.service["read_only"] is True
        assert [place.split(":")[0] for place in self.service["tmpfs"]] == ["/tmp"]
        for service in COMPOSE["services"].values():
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]

    @pytest.mark.parametrize("name", COMPOSE["services"])
    def test_ports_are_published_on_this_machine_only(self, name: str) -> None:
        assert all(port.startswith("127.0.0.1:") for port in COMPOSE["services"][name]["ports"])

    def test_bundle_is_mounted_where_the_image_serves_it(self) -> None:
        (bundle,) = self.service["volumes"]
        assert (bundle["target"], bundle["read_only"]) == (BUNDLE_FOLDER, True)
        assert Path(default_of(bundle["source"])) == Path(DEFAULT_BUNDLE)

    def test_key_is_a_file_that_git_ignores(self) -> None:
        key = Path(default_of(COMPOSE["secrets"]["key"]["file"]))
        assert f"{key.parts[0]}/" in (ROOT / ".gitignore").read_text().splitlines()

    def test_prometheus_scrapes_the_service_with_the_key_that_it_accepts(self) -> None:
        (job,) = config_of("prometheus")["scrape_configs"]
        assert job["static_configs"] == [{"targets": [f"dimml:{PORT}"]}]
        assert job["authorization"] == {
            "credentials_file": self.service["environment"]["DIMML_API_KEYS_FILE"]
        }
        for name in ("dimml", "prometheus"):
            assert COMPOSE["services"][name]["secrets"] == ["key"]

    def test_grafana_shows_the_dashboard_with_data_of_prometheus(self) -> None:
        grafana = COMPOSE["services"]["grafana"]
        (source,) = config_of("grafana-data-source")["datasources"]
        (provider,) = config_of("grafana-dashboards")["providers"]
        places = {config["source"]: Path(config["target"]) for config in grafana["configs"]}
        assert source["url"] == "http://prometheus:9090"
        assert places["dashboard"].parent == Path(provider["options"]["path"])
        home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        assert places["dashboard"] == Path(home)
        dashboard = json.loads((ROOT / COMPOSE["configs"]["dashboard"]["file"]).read_text())
        # The first data source of its type is the choice of the dashboard's variable.
        (variable,) = dashboard["templating"]["list"]
        assert variable["query"] == source["type"]

    def test_gpu_file_only_changes_services_that_exist(self) -> None:
        assert set(GPU["services"]) <= set(COMPOSE["services"])

    def test_stop_waits_for_requests_in_progress(self) -> None:
        seconds = int(self.service["stop_grace_period"].removesuffix("s"))
        assert seconds > Settings.model_fields["timeout"].default


class TestKubernetes:
    pod = OBJECTS["Deployment"]["spec"]["template"]
    (container,) = OBJECTS["Deployment"]["spec"]["template"]["spec"]["containers"]
    labels = OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"]

    def test_probes_ask_the_health_pages_of_the_port(self) -> None:
        assert self.container["ports"] == [{"name": "http", "containerPort": PORT}]
        probes = [self.container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")]
        assert {probe["httpGet"]["port"] for probe in probes} == {"http"}
        assert {probe["httpGet"]["path"] for probe in probes} == set(HEALTH_PATHS)

    def test_pod_runs_as_the_user_of_the_image_with_a_read_only_root(self) -> None:
        context = self.pod["spec"]["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == value_of("USER")
        assert context["runAsNonRoot"] is True
        assert self.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }

    def test_every_mount_has_a_volume(self) -> None:
        mounts = {mount["mountPath"]: mount["name"] for mount in self.container["volumeMounts"]}
        volumes = {volume["name"] for volume in self.pod["spec"]["volumes"]}
        assert set(mounts.values()) == volumes
        assert {BUNDLE_FOLDER, "/tmp"} <= set(mounts)

    def test_service_and_prometheus_use_the_same_key(self) -> None:
        (variable,) = self.container["env"]
        (secret,) = [v["secret"] for v in self.pod["spec"]["volumes"] if "secret" in v]
        (endpoint,) = OBJECTS["PodMonitor"]["spec"]["podMetricsEndpoints"]
        credentials = endpoint["authorization"]["credentials"]
        assert variable["value"] == f"/keys/{credentials['key']}"
        assert secret["secretName"] == credentials["name"]

    @pytest.mark.parametrize("kind", ["Deployment", "PodDisruptionBudget", "PodMonitor"])
    def test_selector_finds_the_pods(self, kind: str) -> None:
        assert OBJECTS[kind]["spec"]["selector"] == {"matchLabels": self.labels}

    def test_service_finds_the_pods(self) -> None:
        assert OBJECTS["Service"]["spec"]["selector"] == self.labels

    def test_stop_waits_for_requests_in_progress(self) -> None:
        pause = self.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        timeout = Settings.model_fields["timeout"].default
        assert self.pod["spec"]["terminationGracePeriodSeconds"] > pause + timeout

    def test_autoscaling_follows_the_queue_and_the_refusals(self) -> None:
        scaled = OBJECTS["ScaledObject"]["spec"]
        assert scaled["scaleTargetRef"]["name"] == OBJECTS["Deployment"]["metadata"]["name"]
        assert "replicas" not in OBJECTS["Deployment"]["spec"]
        query = scaled["triggers"][0]["metadata"]["query"]
        metrics = {name.removesuffix("_total") for name in re.findall(r"dimml_\w+", query)}
        assert metrics == {"dimml_queue_depth", "dimml_requests"}
        assert metrics <= metric_names()


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml", "docs/kubernetes.yaml"])
def test_variables_of_the_service_are_settings(name: str) -> None:
    named = re.findall(rf"\b{PREFIX}([A-Z_]+):? ?", _without_comments(ROOT / name))
    assert named
    assert {variable.lower() for variable in named} <= set(Settings.model_fields)


def _without_comments(path: Path) -> str:
    return re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE)

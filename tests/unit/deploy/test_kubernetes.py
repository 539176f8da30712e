"""The manifests for Kubernetes and KServe: the published schemas accept them, and they agree with each other."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cryptography import x509
from tests.kubernetes import FOLDER, Manifest, check, documented_secrets, kubectl, one, read, rendered
from tests.server_process import ROOT
from tests.system_packages import require

from retinue_server import __version__
from retinue_server.settings import Settings

OVERLAYS = ("cpu", "gpu")
KSERVE = [*read("kserve/clusterservingruntime.yaml"), *read("kserve/inferenceservice.yaml")]
ALL = {
    f"{group}: {manifest['kind']} {manifest['metadata']['name']}": manifest
    for group, manifests in [*((name, rendered(name)) for name in OVERLAYS), ("kserve", KSERVE)]
    for manifest in manifests
}
DOCKERFILE = (ROOT / "server" / "Dockerfile").read_text()
README = (ROOT / "deploy" / "README.md").read_text()
ADAPTER = yaml.safe_load((FOLDER / "monitoring" / "prometheus-adapter-values.yaml").read_text())
DRAIN_SECONDS = Settings.model_fields["drain_seconds"].default

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def _pod(overlay: str) -> dict[str, Any]:
    return one(rendered(overlay), "Deployment")["spec"]["template"]["spec"]


def _server(overlay: str) -> dict[str, Any]:
    (container,) = _pod(overlay)["containers"]
    return container


def _pod_labels(overlay: str) -> dict[str, str]:
    return one(rendered(overlay), "Deployment")["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("manifest", ALL.values(), ids=ALL)
def test_the_published_schema_accepts_a_manifest(manifest: Manifest) -> None:
    check(manifest)


@pytest.mark.parametrize("manifest", ALL.values(), ids=ALL)
def test_the_published_schema_knows_every_field(manifest: Manifest) -> None:
    changed = copy.deepcopy(manifest)
    if "spec" in changed:
        changed["spec"]["no_such_field"] = 1
    else:
        changed["noSuchField"] = 1

    with pytest.raises(jsonschema.ValidationError, match="Additional properties"):
        check(changed)


@every_overlay
def test_everything_that_is_promised_is_applied_to_one_namespace(overlay: str) -> None:
    kinds = {manifest["kind"] for manifest in rendered(overlay)}
    places = {manifest["metadata"].get("namespace") for manifest in rendered(overlay)}

    assert kinds == {
        *("Namespace", "ServiceAccount", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"),
        *("HorizontalPodAutoscaler", "ServiceMonitor", "PrometheusRule"),
    }
    assert places == {one(rendered(overlay), "Namespace")["metadata"]["name"], None}


@every_overlay
def test_every_selector_finds_the_servers_pods(overlay: str) -> None:
    manifests, labels = rendered(overlay), _pod_labels(overlay)
    deployment = one(manifests, "Deployment")["spec"]
    selectors = [
        deployment["selector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in _pod(overlay)["topologySpreadConstraints"]),
        *(each["spec"]["selector"] for each in manifests if each["kind"] == "Service"),
        one(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]

    assert all(selector and selector.items() <= labels.items() for selector in selectors)


@every_overlay
def test_the_monitor_finds_one_service_whose_name_is_the_job_that_alerts_name(overlay: str) -> None:
    wanted = one(rendered(overlay), "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    services = [each for each in rendered(overlay) if each["kind"] == "Service"]

    found = [each for each in services if wanted.items() <= each["metadata"]["labels"].items()]

    assert [each["metadata"]["name"] for each in found] == ["retinue"]
    assert '{job="retinue"}' in (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()


@every_overlay
def test_every_port_that_is_named_is_one_of_the_servers(overlay: str) -> None:
    manifests, server = rendered(overlay), _server(overlay)
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    services = [each for each in manifests if each["kind"] == "Service"]
    policy = one(manifests, "NetworkPolicy")["spec"]
    (endpoint,) = one(manifests, "ServiceMonitor")["spec"]["endpoints"]

    for name, number in ports.items():
        assert f"RETINUE_{name.upper()}_PORT={number}" in DOCKERFILE
    for port in (port for service in services for port in service["spec"]["ports"]):
        assert port["targetPort"] == port["name"]
        assert port["port"] == ports[port["name"]]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == set(ports)
    assert endpoint["port"] in ports
    probes = [server[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert [(probe["path"], probe["port"], probe["scheme"]) for probe in probes] == [
        ("/livez", "http", "HTTPS"),
        ("/livez", "http", "HTTPS"),
        ("/readyz", "http", "HTTPS"),
    ]


@every_overlay
def test_the_environment_is_settings_of_the_server(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in _server(overlay)["env"]:
        monkeypatch.setenv(entry["name"], entry["value"])

    settings = Settings.resolve([])

    names = {entry["name"].removeprefix("RETINUE_").lower() for entry in _server(overlay)["env"]}
    assert names <= set(Settings.model_fields)
    assert settings.provider == {"cpu": "auto", "gpu": "cuda"}[overlay]


def test_kserves_arguments_are_settings_of_the_server() -> None:
    (container,) = one(KSERVE, "ClusterServingRuntime")["spec"]["containers"]

    settings = Settings.resolve(container["args"])

    assert container["name"] == "kserve-container"
    assert settings.models == "/mnt/models"
    assert settings.http_port == container["readinessProbe"]["httpGet"]["port"]
    (port,) = one(KSERVE, "InferenceService", "vision-grpc")["spec"]["predictor"]["model"]["ports"]
    assert port["containerPort"] == settings.grpc_port


def test_kserves_services_name_a_runtime_that_has_what_they_ask_for() -> None:
    runtime = one(KSERVE, "ClusterServingRuntime")
    formats = {each["name"] for each in runtime["spec"]["supportedModelFormats"]}

    for service in (each for each in KSERVE if each["kind"] == "InferenceService"):
        model = service["spec"]["predictor"]["model"]
        assert model["runtime"] == runtime["metadata"]["name"]
        assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
        assert model["modelFormat"]["name"] in formats
        assert service["spec"]["predictor"]["terminationGracePeriodSeconds"] > DRAIN_SECONDS


@every_overlay
def test_the_server_may_drain_before_it_is_killed(overlay: str) -> None:
    waited_seconds = _server(overlay)["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert waited_seconds > 0
    assert _pod(overlay)["terminationGracePeriodSeconds"] > waited_seconds + DRAIN_SECONDS


@pytest.mark.parametrize(
    ("container", "pod"),
    [
        *((_server(overlay), _pod(overlay)["securityContext"]) for overlay in OVERLAYS),
        (one(KSERVE, "ClusterServingRuntime")["spec"]["containers"][0], {}),
    ],
    ids=[*OVERLAYS, "kserve"],
)
def test_a_container_has_no_rights(container: dict[str, Any], pod: dict[str, Any]) -> None:
    held = {**pod, **container["securityContext"]}

    assert held["runAsNonRoot"] is True
    assert f"USER {held['runAsUser']}:{held['runAsGroup']}" in DOCKERFILE
    assert held["allowPrivilegeEscalation"] is False
    assert held["readOnlyRootFilesystem"] is True
    assert held["capabilities"] == {"drop": ["ALL"]}
    assert held["seccompProfile"] == {"type": "RuntimeDefault"}


@every_overlay
def test_nothing_of_kubernetes_gets_into_the_pod(overlay: str) -> None:
    account = one(rendered(overlay), "ServiceAccount")

    assert account["automountServiceAccountToken"] is False
    assert _pod(overlay)["automountServiceAccountToken"] is False
    assert _pod(overlay)["enableServiceLinks"] is False
    assert _pod(overlay)["serviceAccountName"] == account["metadata"]["name"]


def test_images_carry_the_servers_version() -> None:
    (container,) = one(KSERVE, "ClusterServingRuntime")["spec"]["containers"]

    assert _server("cpu")["image"] == container["image"] == f"retinue-server:{__version__}"
    assert _server("gpu")["image"] == f"retinue-server:{__version__}-gpu"


def test_a_pod_has_one_gpu() -> None:
    assert _server("gpu")["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in str(_pod("cpu"))


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    return documented_secrets(tmp_path_factory.mktemp("guide"))


@every_overlay
def test_the_secrets_are_those_that_the_guide_makes(
    overlay: str, secrets: dict[str, dict[str, bytes]]
) -> None:
    volumes = {v["name"]: v["secret"]["secretName"] for v in _pod(overlay)["volumes"] if "secret" in v}
    mounts = {
        mount["mountPath"]: secrets[volumes[mount["name"]]]
        for mount in _server(overlay)["volumeMounts"]
        if mount["name"] in volumes
    }
    (endpoint,) = one(rendered(overlay), "ServiceMonitor")["spec"]["endpoints"]
    authority, token = endpoint["tlsConfig"]["ca"]["secret"], endpoint["authorization"]["credentials"]

    for entry in (entry for entry in _server(overlay)["env"] if entry["value"].startswith("/etc/")):
        path = Path(entry["value"])
        assert path.name in mounts[str(path.parent)]
    assert authority["key"] in secrets[authority["name"]]
    # Prometheus' operator takes it as it is, and no token has a line's end.
    assert re.fullmatch(rb"retinue_[\w-]+", secrets[token["name"]][token["key"]])
    certificate = x509.load_pem_x509_certificate(secrets[authority["name"]]["tls.crt"])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert endpoint["tlsConfig"]["serverName"] in names.get_values_for_type(x509.DNSName)


@every_overlay
def test_prometheus_operator_gets_the_alerts_that_compose_has(overlay: str) -> None:
    alerts = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())

    assert one(rendered(overlay), "PrometheusRule")["spec"] == alerts


def test_the_rules_are_what_their_program_writes(tmp_path: Path) -> None:
    program = FOLDER / "monitoring" / "make_prometheusrule.py"
    written = tmp_path / "prometheusrule.yaml"

    subprocess.run([sys.executable, program, written], check=True)

    assert written.read_text() == (FOLDER / "monitoring" / "prometheusrule.yaml").read_text()


@every_overlay
def test_the_autoscaler_alone_says_how_many_pods_there_are(overlay: str) -> None:
    autoscaler = one(rendered(overlay), "HorizontalPodAutoscaler")["spec"]
    deployment = one(rendered(overlay), "Deployment")

    assert "replicas" not in deployment["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    (rule,) = ADAPTER["rules"]["custom"]
    (asked,) = [metric["pods"] for metric in autoscaler["metrics"] if metric["type"] == "Pods"]
    assert asked["metric"]["name"] == rule["name"]["as"]
    budget = one(rendered(overlay), "PodDisruptionBudget")["spec"]["maxUnavailable"]
    assert autoscaler["minReplicas"] > budget


def test_the_autoscalers_metric_is_each_pods_mean_time_in_the_queue(tmp_path: Path) -> None:
    require("prometheus")
    (rule,) = ADAPTER["rules"]["custom"]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="retinue",pod=~"busy|idle"')

    def series(pod: str, stage: str, what: str, each_15s: float) -> dict[str, str]:
        labels = f'namespace="retinue",pod="{pod}",model="a",stage="{stage}"'
        return {
            "series": f"retinue_stage_duration_seconds_{what}{{{labels}}}",
            "values": f"0+{each_15s}x20",
        }

    test = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    series("busy", "queue", "sum", 12),
                    series("busy", "queue", "count", 100),
                    series("busy", "inference", "sum", 7),
                    series("busy", "inference", "count", 100),
                    series("idle", "queue", "sum", 0),
                    series("idle", "queue", "count", 0),
                ],
                "promql_expr_test": [
                    {
                        "expr": query,
                        "eval_time": "4m",
                        "exp_samples": [
                            {"labels": '{pod="busy"}', "value": 0.12},
                            {"labels": '{pod="idle"}', "value": 0},
                        ],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(test))

    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_guides_own_overlay_names_a_store_a_collector_and_a_registry(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```yaml\n(resources:\n.*?)^```", README, re.MULTILINE | re.DOTALL)
    base = os.path.relpath(FOLDER / "cpu", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(example.replace("deploy/kubernetes/cpu", base))

    manifests = list(yaml.safe_load_all(kubectl("kustomize", str(tmp_path))))

    check(one(manifests, "Deployment"))
    (container,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example/retinue-server:{__version__}-s3-otel"
    names = {entry["name"] for entry in container["env"]}
    assert {"RETINUE_MODELS", "RETINUE_MODEL_CONTROL", "RETINUE_TOKENS", "RETINUE_TRACE_ENDPOINT"} <= names
    policy = one(manifests, "NetworkPolicy")
    check(policy)
    assert 4317 in {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}

"""The real Prometheus, with this repository's configuration and alerts, on a real server."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.prometheus_process import PrometheusProcess, running_prometheus, wait_for
from tests.server_process import ROOT, ServerProcess, running_server
from tests.system_packages import require
from tests.vision_calls import CALLS, call_everything


@pytest.fixture(scope="module")
def prometheus(
    colour_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrometheusProcess]:
    require("prometheus")
    with running_prometheus(colour_server.http_url, tmp_path_factory.mktemp("prometheus")) as process:
        yield process


def test_prometheus_counts_the_calls_that_were_made(
    colour_server: ServerProcess, prometheus: PrometheusProcess
) -> None:
    def counted() -> float:
        return prometheus.value("sum(retinue_requests_total)") or 0

    before = httpx.get(f"{colour_server.http_url}/metrics").text
    already = sum(
        float(value) for value in re.findall(r"^retinue_requests_total{.*} (.*)$", before, re.MULTILINE)
    )

    for _ in range(5):
        call_everything(colour_server.grpc_address)

    wait_for(lambda: counted() >= already + 5 * CALLS, "the calls to be counted")
    assert counted() == already + 5 * CALLS
    assert prometheus.value('sum(retinue_requests_total{code="NOT_FOUND", model=""})')


def test_the_alert_rules_are_loaded_and_quiet_on_a_healthy_server(prometheus: PrometheusProcess) -> None:
    def evaluated() -> list[dict[str, Any]]:
        rules = prometheus.rules()
        return rules if all(rule["health"] == "ok" for rule in rules) else []

    rules = wait_for(evaluated, "the rules to be evaluated")

    assert {rule["name"] for rule in rules} >= {
        "RetinueDown",
        "RetinueErrors",
        "RetinueSlow",
        "RetinueOverloaded",
    }
    assert {rule["name"]: rule["state"] for rule in rules} == {rule["name"]: "inactive" for rule in rules}


def test_the_autoscalers_metric_is_there_while_images_are_asked_for(
    colour_server: ServerProcess, prometheus: PrometheusProcess
) -> None:
    values = ROOT / "deploy" / "kubernetes" / "monitoring" / "prometheus-adapter-values.yaml"
    (rule,) = yaml.safe_load(values.read_text())["rules"]["custom"]
    # Here there are no pods: an instance stands for each.
    query = (
        rule["metricsQuery"]
        .replace("<<.GroupBy>>", "instance")
        .replace("<<.LabelMatchers>>", 'job="retinue"')
    )
    prometheus.wait_for_data(re.sub(r",namespace.*(?=})", "", rule["seriesQuery"]))
    call_everything(colour_server.grpc_address)

    waited = wait_for(lambda: prometheus.value(query), "a mean time in the queue")

    assert 0 < waited < 10


def test_a_server_that_is_gone_is_noticed(colour_models: Path, tmp_path: Path) -> None:
    require("prometheus")
    with (
        running_server(colour_models) as server,
        running_prometheus(server.http_url, tmp_path) as prometheus,
    ):
        server.terminate()

        wait_for(lambda: prometheus.value("up") == 0, "the server to be missed")
        wait_for(
            lambda: prometheus.query('ALERTS{alertname="RetinueDown", severity="critical"}'),
            "the alert to be pending",
        )


def test_promtool_finds_nothing_to_say_about_the_metrics(colour_server: ServerProcess) -> None:
    require("prometheus")
    call_everything(colour_server.grpc_address)
    metrics = httpx.get(f"{colour_server.http_url}/metrics").text

    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics, capture_output=True, text=True, check=False
    )

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")

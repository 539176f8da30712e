"""Every panel of the Grafana dashboards shows data: its queries, asked of a real Prometheus on a real server."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles
from tests.calls import connected, encoded, flat
from tests.prometheus_process import PrometheusProcess, running_prometheus, wait_for
from tests.server_process import ROOT, ServerProcess, running_server
from tests.system_packages import require
from tests.vision_calls import call_everything

DASHBOARDS: dict[str, Any] = {
    path.stem: json.loads(path.read_text())
    for path in sorted((ROOT / "deploy" / "grafana" / "dashboards").iterdir())
}
MODELS = ("colour-classifier", "colour-detector", "colour-segmenter")
# It has two versions, of which one gets copies of what the other answers.
COMPARED = "compared-classifier"


def _queries() -> Iterator[tuple[str, str]]:
    """Title and query of each target of each panel."""
    for name, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield f"{name}: {panel['title']}: {target['legendFormat']}", target["expr"]


# The tests' machine has no GPU; that the queries name metrics which the server declares is tested below.
GPU_QUERIES = [pytest.param(query, id=title) for title, query in _queries() if "gpu" in query]
QUERIES = [pytest.param(query, id=title) for title, query in _queries() if "gpu" not in query]
MODEL_QUERIES = [
    query
    for query in QUERIES
    if re.search(r"by \([^)]*model", query.values[0]) and "candidate" not in query.values[0]
]


def _substitute(query: str, prometheus: PrometheusProcess, model: str = ".*") -> str:
    """What Grafana makes of the query; `.*` is the variable's value for all models."""
    query = query.replace("$__rate_interval", "1m").replace("$__range", "1m")
    query = query.replace("$instance", re.escape(prometheus.target).replace("\\", "\\\\"))
    query = query.replace("$model", model)
    assert "$" not in query, f"a variable that the dashboard does not define: {query}"
    return query


@dataclass(frozen=True)
class Watched:
    """A server, and whether it has front-ends."""

    server: ServerProcess
    has_workers: bool


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two front-ends"])
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A server with a model of each task and one that is compared, and a limit of memory."""
    models = tmp_path_factory.mktemp("watched")
    colour_bundles.classifier(models)
    colour_bundles.detector(models)
    colour_bundles.segmenter(models)
    for version in (1, 2):
        colour_bundles.classifier(models, COMPARED, version)
    policy = {"split": [{"version": 1, "percent": 100}], "shadow": {"version": 2, "percent": 100}}
    (models / COMPARED / "serving.json").write_text(json.dumps(policy))
    with running_server(models, "--workers", str(request.param), "--memory-limit", "8GB") as server:
        yield Watched(server, bool(request.param))


@pytest.fixture(scope="module")
def prometheus(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusProcess]:
    """One that has seen calls of every task, copies, a batch job and a call that failed between two scrapes."""
    require("prometheus")
    server = watched.server
    call_all(server)
    with running_prometheus(server.http_url, tmp_path_factory.mktemp("prometheus")) as process:
        call_all(server)
        wait_for(
            lambda: process.query(
                'rate(retinue_requests_total{code="NOT_FOUND"}[1m]) > 0 and on () '
                "rate(retinue_shadow_agreement_count[1m]) > 0"
            ),
            "the calls to be scraped",
        )
        yield process


def call_all(server: ServerProcess) -> None:
    """Calls of every task, and those of a batch job, on models of which one is compared with another."""
    call_everything(server.grpc_address)
    with connected(server.grpc_address) as connection:
        for model in (*MODELS[:1], COMPARED):
            connection.classify(flat(255, 0, 0), encoded(b"no image"), model=model, priority=pb.PRIORITY_LOW)
        connection.detect(flat(255, 0, 0), model=MODELS[1], priority=pb.PRIORITY_LOW)
        connection.segment(flat(255, 0, 0), model=MODELS[2], priority=pb.PRIORITY_LOW)


@pytest.mark.parametrize("query", QUERIES)
def test_a_panel_has_data(query: str, prometheus: PrometheusProcess, watched: Watched) -> None:
    if "retinue_worker" in query and "process_resident" not in query and not watched.has_workers:
        assert prometheus.query(_substitute(query, prometheus)) == []
        return
    assert prometheus.wait_for_data(_substitute(query, prometheus))


@pytest.mark.parametrize("query", MODEL_QUERIES)
@pytest.mark.parametrize("model", MODELS)
def test_choosing_a_model_narrows_a_panel_to_it(
    query: str, model: str, prometheus: PrometheusProcess
) -> None:
    shown = prometheus.wait_for_data(_substitute(query, prometheus, model))

    assert {series["metric"]["model"] for series in shown} == {model}


def test_the_variables_offer_the_server_and_its_models(prometheus: PrometheusProcess) -> None:
    for dashboard in DASHBOARDS.values():
        offered = {}
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
                assert asked is not None
                offered[variable["name"]] = prometheus.label_values(*asked.groups())

        assert offered == {"instance": [prometheus.target], "model": sorted([*MODELS, COMPARED])}


def test_the_annotation_marks_when_the_server_started(prometheus: PrometheusProcess) -> None:
    (annotation,) = DASHBOARDS["retinue"]["annotations"]["list"]

    (started,) = prometheus.query(_substitute(annotation["expr"], prometheus))

    started_seconds = float(started["value"][1]) / 1000
    assert 0 < float(started["value"][0]) - started_seconds < 86_400


@pytest.mark.parametrize("query", GPU_QUERIES)
def test_a_gpu_panel_asks_for_metrics_that_the_server_declares(query: str, watched: Watched) -> None:
    page = httpx.get(f"{watched.server.http_url}/metrics").text
    declared = re.findall(r"^# TYPE (\w+)", page, re.MULTILINE)

    wanted = re.findall(r"retinue_\w+", query)
    assert wanted
    assert set(wanted) <= set(declared)

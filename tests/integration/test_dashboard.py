"""Every panel of the Grafana dashboard shows data: its queries, asked of a real Prometheus on a real server."""

import json
import re
from collections.abc import Iterator

import httpx
import pytest
from tests.prometheus_process import PrometheusProcess, running_prometheus, wait_for
from tests.server_process import ROOT, ServerProcess
from tests.system_packages import require
from tests.vision_calls import call_everything

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "retinue.json").read_text())
MODELS = ("colour-classifier", "colour-detector", "colour-segmenter")


def _queries() -> Iterator[tuple[str, str]]:
    """Title and query of each target of each panel."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield f"{panel['title']}: {target['legendFormat']}", target["expr"]


# The tests' machine has no GPU; that the queries name metrics which the server declares is tested below.
GPU_QUERIES = [pytest.param(query, id=title) for title, query in _queries() if "gpu" in query]
QUERIES = [pytest.param(query, id=title) for title, query in _queries() if "gpu" not in query]
MODEL_QUERIES = [query for query in QUERIES if re.search(r"by \([^)]*model", query.values[0])]


def _substitute(query: str, prometheus: PrometheusProcess, model: str = ".*") -> str:
    """What Grafana makes of the query; `.*` is the variable's value for all models."""
    query = query.replace("$__rate_interval", "1m").replace(
        "$instance", re.escape(prometheus.target).replace("\\", "\\\\")
    )
    query = query.replace("$model", model)
    assert "$" not in query, f"a variable that the dashboard does not define: {query}"
    return query


@pytest.fixture(scope="module")
def prometheus(
    colour_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrometheusProcess]:
    """One that has seen calls of every task, and one that failed, happen between two scrapes."""
    require("prometheus")
    call_everything(colour_server.grpc_address)
    with running_prometheus(colour_server.http_url, tmp_path_factory.mktemp("prometheus")) as process:
        call_everything(colour_server.grpc_address)
        wait_for(
            lambda: process.query('rate(retinue_requests_total{code="NOT_FOUND"}[1m]) > 0'),
            "the calls to be scraped",
        )
        yield process


@pytest.mark.parametrize("query", QUERIES)
def test_a_panel_has_data(query: str, prometheus: PrometheusProcess) -> None:
    assert prometheus.wait_for_data(_substitute(query, prometheus))


@pytest.mark.parametrize("query", MODEL_QUERIES)
@pytest.mark.parametrize("model", MODELS)
def test_choosing_a_model_narrows_a_panel_to_it(
    query: str, model: str, prometheus: PrometheusProcess
) -> None:
    shown = prometheus.wait_for_data(_substitute(query, prometheus, model))

    assert {series["metric"]["model"] for series in shown} == {model}


def test_the_variables_offer_the_server_and_its_models(prometheus: PrometheusProcess) -> None:
    offered = {}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert asked is not None
            offered[variable["name"]] = prometheus.label_values(*asked.groups())

    assert offered == {"instance": [prometheus.target], "model": sorted(MODELS)}


def test_the_annotation_marks_when_the_server_started(prometheus: PrometheusProcess) -> None:
    (annotation,) = DASHBOARD["annotations"]["list"]

    (started,) = prometheus.query(_substitute(annotation["expr"], prometheus))

    started_seconds = float(started["value"][1]) / 1000
    assert 0 < float(started["value"][0]) - started_seconds < 86_400


@pytest.mark.parametrize("query", GPU_QUERIES)
def test_a_gpu_panel_asks_for_metrics_that_the_server_declares(
    query: str, colour_server: ServerProcess
) -> None:
    declared = re.findall(r"^# TYPE (\w+)", httpx.get(f"{colour_server.http_url}/metrics").text, re.MULTILINE)

    wanted = re.findall(r"retinue_\w+", query)
    assert wanted
    assert set(wanted) <= set(declared)

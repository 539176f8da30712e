"""The dashboards and their provisioning: structure, and agreement with what they name elsewhere.

That the queries return data is tested in tests/integration/test_dashboard.py.
"""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.server_process import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").iterdir())
}
SHOWN = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    if panel["type"] != "row"
]
VARIABLES = {"datasource", "instance", "model"}
BUILT_IN = {"__rate_interval", "__range", "__data", "__url_time_range"}
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
COLUMNS = 24


def _cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    grid = panel["gridPos"]
    columns = range(grid["x"], grid["x"] + grid["w"])
    return set(itertools.product(columns, range(grid["y"], grid["y"] + grid["h"])))


def _mounts() -> dict[str, Path]:
    volumes = [volume.split(":") for volume in SERVICES["grafana"]["volumes"]]
    return {target: ROOT / source for source, target, *_ in volumes if source.startswith("./")}


def test_the_dashboards_are_what_their_program_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-B", GRAFANA / "make_dashboards.py", tmp_path], check=True)

    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text() for path in (GRAFANA / "dashboards").iterdir()}


def test_there_is_one_for_all_one_for_a_model_one_for_the_machine_and_one_for_batch_jobs() -> None:
    assert DASHBOARDS.keys() == {"retinue", "retinue-model", "retinue-engine", "retinue-batch"}
    assert {name: dashboard["uid"] for name, dashboard in DASHBOARDS.items()} == {
        name: name for name in DASHBOARDS
    }


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())
def test_a_dashboard_leads_to_the_others_and_keeps_what_was_chosen(dashboard: dict[str, Any]) -> None:
    (link,) = dashboard["links"]

    assert (link["type"], link["includeVars"], link["keepTime"]) == ("dashboards", True, True)
    assert all(set(link["tags"]) <= set(other["tags"]) for other in DASHBOARDS.values())
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == VARIABLES


def test_links_lead_to_dashboards_that_there_are() -> None:
    linked = re.findall(r"/d/([\w-]+)", json.dumps(list(DASHBOARDS.values())))

    assert linked
    assert set(linked) <= DASHBOARDS.keys()


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())
def test_no_two_panels_share_a_place_or_a_number(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    for one, other in itertools.combinations(panels, 2):
        assert not _cells(one) & _cells(other), f"{one['title']} overlaps {other['title']}"
    assert all(column < COLUMNS for panel in panels for column, _ in _cells(panel))
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize("panel", SHOWN)
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    references = [target["refId"] for target in panel["targets"]]
    assert references
    assert len(set(references)) == len(references)


@pytest.mark.parametrize("panel", SHOWN)
def test_a_panel_uses_only_variables_that_there_are(panel: dict[str, Any]) -> None:
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panel)))

    assert used <= VARIABLES | BUILT_IN
    assert "datasource" in used


def test_the_data_source_is_the_compose_files_prometheus_at_its_pace() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())

    (port,) = SERVICES["prometheus"]["ports"]
    assert source["url"] == f"http://prometheus:{port.rsplit(':')[-1]}"
    assert source["type"] == "prometheus"
    assert source["isDefault"] is True
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


def test_grafana_finds_the_provisioning_the_dashboards_and_its_home() -> None:
    mounts = _mounts()
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "retinue.yml").read_text())[
        "providers"
    ]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])

    # Grafana's own default for provisioning files.
    assert mounts["/etc/grafana/provisioning"] == GRAFANA / "provisioning"
    assert mounts[provider["options"]["path"]] == GRAFANA / "dashboards"
    assert (mounts[str(home.parent)] / home.name).is_file()

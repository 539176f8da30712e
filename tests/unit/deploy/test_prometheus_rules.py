"""The scrape configuration and the alerts, checked by Prometheus's own tool."""

import re
import subprocess
from typing import Any

import pytest
import yaml
from tests.server_process import ROOT
from tests.system_packages import require

FOLDER = ROOT / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
RUNBOOK = (ROOT / "deploy" / "README.md").read_text()


def _promtool(*arguments: str) -> None:
    require("prometheus")
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_its_configuration() -> None:
    _promtool("check", "config", "prometheus.yml")
    # Without the files of certificates and tokens, which are made when it is used.
    _promtool("check", "config", "--syntax-only", "prometheus-tls.yml")


def test_prometheus_accepts_the_rules() -> None:
    _promtool("check", "rules", "--lint-fatal", "alerts.yml")


def test_the_rules_fire_when_they_should_and_only_then() -> None:
    _promtool("test", "rules", "alerts_test.yml")


def test_every_rule_is_tested_to_fire() -> None:
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    fired = {check["alertname"] for check in checks if check["exp_alerts"]}

    assert fired == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description"}


def test_every_rule_is_in_the_runbook_and_no_other() -> None:
    rows = re.findall(r"^\| `(Retinue\w+)` \|", RUNBOOK, re.MULTILINE)

    assert rows == [rule["alert"] for rule in RULES]

"""Debian's Prometheus with this repository's configuration, in a process of its own, for tests."""

import copy
import json
import math
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import yaml

from tests.server_process import ROOT

CONFIGURATION = ROOT / "deploy" / "prometheus" / "prometheus.yml"
JOB = "retinue"
# How long Prometheus may take to start and to scrape. The repository's five seconds between scrapes are one here.
TIMEOUT_SECONDS = 30
# How long data may take to appear in a Prometheus that scrapes already.
DATA_TIMEOUT_SECONDS = 10
_INTERVAL = "1s"
_QUICK_RANGE = "6s"
_POLL_SECONDS = 0.1

T = TypeVar("T")
Series = dict[str, Any]


class PrometheusProcess:
    """`prometheus` on a free port, scraping servers.

    Args:
        server_urls: http://host:port of each, or https.
        folder: Where its configuration and its data go.
        quick: Whether its alerts are `quick_rules`.

    Attributes:
        target: The first server's host:port.
    """

    def __init__(self, server_urls: Sequence[str], folder: Path, *, quick: bool = False) -> None:
        self.target = urlsplit(server_urls[0]).netloc
        configuration = folder / "prometheus.yml"
        configuration.write_text(yaml.safe_dump(_configuration_for(server_urls, folder, quick=quick)))
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
                "--log.format=json",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        self._log: list[str] = []
        self._listening = threading.Event()
        self._address = ""
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()

    def wait_until_ready(self) -> None:
        """Waits until it answers queries; fails with its log where it does not."""
        listens = self._listening.wait(TIMEOUT_SECONDS) and self._address
        assert listens, "Prometheus did not start:\n" + "".join(self._log)
        self._client = httpx.Client(base_url=f"http://{self._address}", timeout=TIMEOUT_SECONDS)
        wait_for(lambda: self._client.get("/-/ready").is_success, "Prometheus to be ready")

    def query(self, expression: str) -> list[Series]:
        """What an instant query returns now: one entry a series, with `metric` and `value`."""
        return self._get("query", query=expression)["result"]

    def value(self, expression: str) -> float | None:
        """The value of an expression of one series; None where it has no data."""
        result = self.query(expression)
        assert len(result) <= 1, f"{expression} is {len(result)} series, not one"
        return float(result[0]["value"][1]) if result else None

    def label_values(self, metric: str, label: str) -> list[str]:
        """The values of a label, as Grafana's label_values asks for them."""
        return self._get(f"label/{label}/values", **{"match[]": metric})

    def rules(self) -> list[dict[str, Any]]:
        """The alert rules with their state."""
        return [rule for group in self._get("rules", type="alert")["groups"] for rule in group["rules"]]

    def wait_for_data(self, expression: str) -> list[Series]:
        """Waits until a query returns at least one finite value, and returns those series that have one."""

        def finite() -> list[Series]:
            return [series for series in self.query(expression) if math.isfinite(float(series["value"][1]))]

        return wait_for(finite, f"data for {expression}", DATA_TIMEOUT_SECONDS)

    def close(self) -> None:
        """Ends it."""
        if hasattr(self, "_client"):
            self._client.close()
        self._process.terminate()
        self._process.wait(TIMEOUT_SECONDS)
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._log.append(line)
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("msg") == "Listening on":
                self._address = event["address"]
                self._listening.set()
        self._listening.set()


def wait_for(probe: Callable[[], T], what: str, timeout_seconds: float = TIMEOUT_SECONDS) -> T:
    """Asks again and again until the answer is truthy, and returns it."""
    deadline = time.monotonic() + timeout_seconds
    pause = threading.Event()
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"waited {timeout_seconds} s in vain for {what}"
        pause.wait(_POLL_SECONDS)
    return answer


@contextmanager
def running_prometheus(
    server_url: str, folder: Path, *more_urls: str, quick: bool = False
) -> Iterator[PrometheusProcess]:
    """A Prometheus that has scraped the servers at least once; ended afterwards."""
    urls = (server_url, *more_urls)
    prometheus = PrometheusProcess(urls, folder, quick=quick)
    try:
        prometheus.wait_until_ready()
        wait_for(lambda: prometheus.value(f'count(up{{job="{JOB}"}} == 1)') == len(urls), "the first scrape")
        yield prometheus
    finally:
        prometheus.close()


def quick_rules(rules: dict[str, Any]) -> dict[str, Any]:
    """The repository's alerts for tests that do not wait minutes: the same expressions over shorter times.

    Each range, such as [2m], is one of a few scrapes, and what must hold for a time need hold for two evaluations.
    """
    quick = copy.deepcopy(rules)
    for group in quick["groups"]:
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\[\d+[smh]\]", f"[{_QUICK_RANGE}]", rule["expr"])
            if "for" in rule:
                rule["for"] = _INTERVAL
    return quick


def _configuration_for(server_urls: Sequence[str], folder: Path, *, quick: bool) -> dict[str, Any]:
    """The repository's configuration with other targets and a shorter interval."""
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    configuration["global"] = dict.fromkeys(configuration["global"], _INTERVAL)
    rule_files = [CONFIGURATION.parent / name for name in configuration["rule_files"]]
    if quick:
        for number, file in enumerate(rule_files):
            rule_files[number] = folder / file.name
            rule_files[number].write_text(yaml.safe_dump(quick_rules(yaml.safe_load(file.read_text()))))
    configuration["rule_files"] = list(map(str, rule_files))
    (scrape,) = configuration["scrape_configs"]
    assert scrape["job_name"] == JOB
    addresses = [urlsplit(url) for url in server_urls]
    scrape["static_configs"] = [
        {"targets": [address.netloc], "labels": {"__scheme__": address.scheme}} for address in addresses
    ]
    # The tests' certificates are of nobody that the system trusts.
    scrape["tls_config"] = {"insecure_skip_verify": True}
    return configuration

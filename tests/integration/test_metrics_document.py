"""docs/metrics.md says of each metric what real servers print, and nothing else."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from PIL import Image
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests import living_bundles, pictures
from tests.certificates import Authority
from tests.metrics_page import MetricsPage, wait_until
from tests.object_store import object_store
from tests.server_process import ROOT, ServerProcess, running_server
from tests.vision_calls import call_everything

from retinue_server import gauges
from retinue_server.metrics import Metrics
from retinue_server.runtime.memory import DeviceMemory

_PAGE = (ROOT / "docs" / "metrics.md").read_text()
_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*?) ?\| ([^|]+) \| ([^|]+) \| ([^|]*)\|$", re.MULTILINE)
_NAMES = re.compile(r"^\| `((?:retinue|process|python|nv)_\w+)` \|", re.MULTILINE)
_BUCKETS = "le"
# Of units that are in a name.
_UNITS = {"_seconds": "seconds", "_bytes": "bytes", "_us": "microseconds"}
_SECRET = "a-secret-which-nobody-may-see"


@dataclass(frozen=True)
class Documented:
    """A row."""

    kind: str
    labels: frozenset[str]
    unit: str


DOCUMENTED = {
    name: Documented(kind, frozenset(filter(None, labels.split(", "))), unit)
    for name, kind, labels, unit, *_ in _ROW.findall(_PAGE)
}


def _printed(text: str) -> dict[str, Metric]:
    """The families of a page by the names that it gives them."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: family
        for family in text_string_to_metric_families(text)
    }


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What a server prints that has TLS, tokens, a mirror, a limit of memory, a candidate, and refuses bundles."""
    folder = tmp_path_factory.mktemp("secured")
    aside = folder / "aside"
    aside.mkdir()
    certificate, key = Authority().sign().write(folder)
    tokens = folder / "tokens.json"
    entry = {
        "name": "ann",
        "sha256": hashlib.sha256(_SECRET.encode()).hexdigest(),
        "scopes": ["infer", "observe"],
    }
    tokens.write_text(json.dumps({"tokens": [entry]}))
    tokens.chmod(0o600)
    policy = {
        "split": [{"version": 1, "percent": 100}],
        "shadow": {"version": 2, "percent": 100},
        "labels": {"gone": 9},
    }
    with object_store("models") as store:
        for version in (1, 2):
            store.upload(living_bundles.put(aside, "colours", version), f"served/colours/{version}")
        store.put("served/colours/serving.json", json.dumps(policy).encode())
        store.put("served/torn/1/manifest.json", b"{}")
        store.put("served/torn/1/model.onnx", b"no graph")
        store.put("served/huge/1/manifest.json", b"{}")
        store.put("served/huge/1/model.onnx", bytes(2_000_000))
        store.upload(living_bundles.put(aside, "mistyped", 1), "served/mistyped/1")
        store.put("served/mistyped/serving.json", b'{"latest": "newest"}')
        flags = [
            *("--tls-certificate", str(certificate), "--tls-key", str(key), "--tokens", str(tokens)),
            *("--mirror-limit", "1MB", "--memory-limit", "4GB"),
            *("--triton-metrics", "on", "--provider", "cpu", "--tune", "off"),
            # Where nobody listens: spans are counted all the same.
            *("--trace-endpoint", "http://127.0.0.1:9", "--trace-sample-share", "1"),
        ]
        environment = {**store.environment, "RETINUE_CACHE_FOLDER": str(folder / "cache")}
        with running_server("s3://models/served", *flags, environment=environment) as server:
            url = server.http_url.replace("http:", "https:")
            headers = {"authorization": f"Bearer {_SECRET}"}
            with httpx.Client(base_url=url, headers=headers, verify=False) as client:
                red = pictures.encode(Image.new("RGB", (8, 8), "red"))
                client.post("/v1/models/colours:classify", content=red).raise_for_status()

                def page() -> str:
                    return client.get("/metrics").raise_for_status().text

                wait_until(lambda: "retinue_shadow_agreement_count{" in page(), "the copy to be compared")
                yield page()


@pytest.fixture(scope="module")
def plain(colour_server: ServerProcess) -> str:
    """What a server prints without any of that."""
    call_everything(colour_server.grpc_address)
    return MetricsPage(colour_server.http_url).text


def _check(printed: dict[str, Metric]) -> None:
    for name, family in printed.items():
        assert name in DOCUMENTED, f"{name} has no row"
        said = DOCUMENTED[name]
        assert said.kind == {"unknown": "untyped"}.get(family.type, family.type), name
        for sample in family.samples:
            assert frozenset(sample.labels) - {_BUCKETS} == said.labels, name


def test_every_row_is_whole() -> None:
    assert set(_NAMES.findall(_PAGE)) == set(DOCUMENTED)
    for name, said in DOCUMENTED.items():
        for ending, unit in _UNITS.items():
            if name.removesuffix("_total").endswith(ending):
                assert said.unit == unit, name


def test_all_that_a_server_prints_is_documented(plain: str) -> None:
    _check(_printed(plain))


def test_all_that_a_secured_server_prints_is_documented(secured: str) -> None:
    _check(_printed(secured))


def test_all_that_is_documented_is_printed(secured: str, colour_models: Path) -> None:
    with running_server(colour_models, "--workers", "1") as server:
        several = MetricsPage(server.http_url).text
    pages = _printed(secured), _printed(several)
    assert set(DOCUMENTED) == pages[0].keys() | pages[1].keys()
    # So that the labels of each were compared.
    counted = {name for page in pages for name, family in page.items() if family.samples}
    assert {name for name in set(DOCUMENTED) - counted if "Only on a GPU" not in _row_of(name)} == set()


def test_a_gpus_metrics_are_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "read_devices", lambda: [DeviceMemory(0, 10, 80)])
    metrics = Metrics()
    metrics.publish_server("1.31.1", lambda: True)
    printed = {
        name: family
        for name, family in _printed(generate_latest(metrics.registry).decode()).items()
        if "gpu" in name
    }
    assert printed
    assert all(family.samples for family in printed.values())
    _check(printed)
    assert printed.keys() == {name for name in DOCUMENTED if "Only on a GPU" in _row_of(name)}


def _row_of(name: str) -> str:
    return next(line for line in _PAGE.splitlines() if line.startswith(f"| `{name}` |"))

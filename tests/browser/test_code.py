"""The code that the page shows for a request makes that request."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import json_format
from playwright.sync_api import Page, expect
from retinue.v1 import vision_service_pb2 as pb
from tests.browser.conftest import Tab
from tests.server_process import ROOT
from tests.system_packages import require

SCENE = ROOT / "examples" / "scene.jpg"
# A name that a shell, Python and JavaScript must each quote in their way.
NAME = 'a "scene" of $HOME\'s & co.jpg'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / NAME).write_bytes(SCENE.read_bytes())
    return tmp_path


def code(page: Page, language: str) -> str:
    page.get_by_role("button", name=language, exact=True).click()
    return page.get_by_label("Code", exact=True).inner_text()


def detecting(tab: Tab, folder: Path) -> Page:
    page = tab.open("#/try/fashion-detector")
    tab.give(folder / NAME)
    expect(page.locator(".result .status")).to_contain_text("answered")
    page.get_by_label("Least score").fill("0.5")
    page.get_by_label("Classifier for each object").select_option("fashion-cnn")
    expect(page.get_by_role("columnheader", name="Classifier")).to_be_visible()
    return page


def printed(command: list[str], folder: Path) -> str:
    ran = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_python_finds_as_many_objects_as_the_page(tab: Tab, folder: Path) -> None:
    page = detecting(tab, folder)
    told = printed([sys.executable, "-c", code(page, "Python") + "\nprint(len(result))"], folder)
    assert int(told.splitlines()[-1]) == page.locator("tbody tr").count() == 3


def test_curl_finds_as_many_objects_as_the_page(tab: Tab, folder: Path) -> None:
    require("curl")
    page = detecting(tab, folder)
    told = json.loads(printed(["bash", "-c", code(page, "curl")], folder))
    detections = told["outcomes"][0]["result"]["detections"]
    assert len(detections) == page.locator("tbody tr").count() == 3
    assert all(one["classes"] for one in detections)


def test_grpcurl_is_given_the_request(tab: Tab, folder: Path) -> None:
    page = detecting(tab, folder)
    stand_in = 'grpcurl() { echo "$@" >&2; cat; }\n'
    request = json_format.Parse(
        printed(["bash", "-c", stand_in + code(page, "grpcurl")], folder), pb.DetectRequest()
    )
    assert (request.model, request.classify_with.model) == ("fashion-detector", "fashion-cnn")
    assert request.score_threshold == 0.5
    assert request.images[0].encoded == SCENE.read_bytes()


def test_typescript_has_the_options_by_its_own_names(tab: Tab, folder: Path) -> None:
    text = code(detecting(tab, folder), "TypeScript")
    assert 'import { Client } from "retinue-client";' in text
    for option in (
        'model: "fashion-detector"',
        "scoreThreshold: 0.5",
        'classifyWith: "fashion-cnn"',
        json.dumps(NAME),
    ):
        assert option in text


def test_it_can_be_copied(tab: Tab) -> None:
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = tab.open("#/try/mobilenet-v2")
    text = code(page, "Python")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert page.evaluate("() => navigator.clipboard.readText()").strip() == text.strip()

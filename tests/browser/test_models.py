"""The view of the models, and of one of them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
from playwright.sync_api import Route, expect
from tests import colour_bundles
from tests.browser.conftest import Tab
from tests.server_process import running_server


def test_every_model_is_listed_and_leads_to_its_page(tab: Tab) -> None:
    page = tab.open("#/models")
    rows = page.get_by_role("region", name="Models that are served").get_by_role("row")
    expect(rows).to_have_count(5)
    page.get_by_role("link", name="mobilenet-v2").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("mobilenet-v2 version 1")


def test_a_models_page_has_its_manifest_its_certificate_and_what_was_measured(tab: Tab) -> None:
    told = httpx.get(f"{tab.address}/v1/models/fashion-detector").json()
    page = tab.open("#/models/fashion-detector/1")
    expect(page.get_by_role("heading", level=1)).to_have_text("fashion-detector version 1")
    text = page.locator("main").inner_text()
    manifest, execution = told["manifest"], told["execution"]
    for expected in (manifest["sha256"], manifest["source"]["licence"], manifest["source"]["weights"]):
        assert expected in text
    assert manifest["parity"]["reference"] in text
    assert manifest["parity"]["inputs"] in text
    tuned = page.get_by_role("region", name="Batches that were measured").get_by_role("row")
    assert tuned.count() == 1 + len(execution["batches"])
    expect(tuned.last).to_contain_text(f"{execution['max_batch_size']}, chosen as the largest")
    certificate = page.get_by_role("region", name="Differences").get_by_role("row")
    assert certificate.count() == 1 + sum(len(manifest["parity"][kind]) for kind in ("outputs", "rounding"))
    page.get_by_text("Labels", exact=True).click()
    expect(page.locator(".labels")).to_contain_text("0 T-shirt/top, 1 trouser")
    page.get_by_role("link", name="Try it").click()
    expect(page.get_by_role("combobox", name="Model", exact=True)).to_have_value("fashion-detector")


def test_versions_their_labels_and_what_is_not_served_are_told_and_can_be_tried(
    open_tab: Callable[..., Tab], tmp_path: Path
) -> None:
    for version in (1, 2):
        colour_bundles.classifier(tmp_path, version=version)
    (tmp_path / "colour-classifier" / "serving.json").write_text(
        '{"labels": {"stable": 1, "canary": 2}, "split": [{"label": "stable", "percent": 90}, '
        '{"label": "canary", "percent": 10}]}'
    )
    shutil.copytree(tmp_path / "colour-classifier" / "1", tmp_path / "broken" / "1")
    with running_server(tmp_path) as server:
        tab = open_tab(server.http_url)
        page = tab.open("#/models")
        refused = page.get_by_role("region", name="Models that are not served")
        expect(refused.get_by_role("row", name="broken")).to_contain_text("but its folder is called")
        page.get_by_role("link", name="colour-classifier").first.click()
        expect(page.get_by_text("stable 90 %, canary 10 %")).to_be_visible()
        page.get_by_role("link", name="Try it").click()
        page.get_by_role("combobox", name="Version").select_option("canary")
        page.get_by_role("button", name="Example").click()
        expect(page.locator(".result .status")).to_contain_text("Version 2 answered.")
        expect(page.get_by_label("Code", exact=True)).to_contain_text('version="canary"')


def test_a_model_that_is_not_there_is_what_the_server_says(tab: Tab) -> None:
    page = tab.open("#/models/nobody/1")
    expect(page.get_by_role("alert")).to_contain_text("There is no model 'nobody'")


def test_of_very_many_labels_it_is_told_how_many_are_left_out(tab: Tab) -> None:
    def with_many_labels(route: Route) -> None:
        told = route.fetch().json()
        told["manifest"]["labels"] = [f"class {number}" for number in range(2003)]
        route.fulfill(json=told)

    tab.page.route("**/v1/models/fashion-cnn/versions/1", with_many_labels)
    page = tab.open("#/models/fashion-cnn/1")
    page.get_by_text("Labels", exact=True).click()
    expect(page.locator(".labels")).to_contain_text("1999 class 1999, and 3 more")

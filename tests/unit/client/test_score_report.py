"""The report of a job: what it says, and that nothing from outside is more than text in it."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.unit.client.score_results import DETECTIONS, MODEL, SEGMENTATION, classification

from retinue_client import ImageError
from retinue_client._score.account import Account
from retinue_client._score.disk import Disk
from retinue_client._score.document import JobFacts
from retinue_client._score.report import report, write_report
from retinue_client._score.report.markup import Html, clip, element, join
from retinue_client._score.rows import row_of
from retinue_client._score.sample import Sample
from retinue_client._score.summary import Summary

FACTS = JobFacts("classify", "photos", "results", {"top_k": 5}, MODEL, "1.2.3")
HOSTILE = "</td><script>alert(1)</script>\"'><img src=http://evil/ onerror=alert(1)>\u202e\x00"
VOID = {"meta", "link", "img"}
# What the page is made of.
ELEMENTS = {
    *("html", "head", "meta", "title", "link", "style", "body", "header", "main", "footer", "time"),
    *("section", "h1", "h2", "h3", "p", "dl", "dt", "dd", "div", "span", "code", "details", "summary"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "ul", "li", "figure", "figcaption", "img"),
    *("svg", "rect", "g"),
}


class Page(HTMLParser):
    """The elements of a page, with their attributes, in order; fails where they are not nested."""

    def __init__(self, page):
        super().__init__()
        self.elements = []
        self.text = []
        self._open = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def png():
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((640, 480)).save(buffer, "PNG")
    return buffer.getvalue()


def job(*outcomes, image=b"", paths=None):
    account, sample = Account(), Sample()
    account.add_answer(0.01, 0.02, outcomes)
    for number, outcome in enumerate(outcomes):
        path = paths or f"{number}.jpg"
        account.add_rows([row_of(path, outcome, (64, 48))])
        sample.offer(f"{number} {path}", image, outcome)
    account.close_part()
    sample.draw_waiting()
    return account.total(), sample


def text_of(*outcomes, facts=FACTS):
    return " ".join("".join(Page(report(facts, *job(*outcomes))).text).split())


def test_a_classifiers_report_says_what_it_saw_how_sure_it_was_and_how_it_went():
    text = text_of(
        *[classification(("cat", 0.97))] * 3,
        classification(("dog", 0.31)),
        ImageError("No bytes.", reason="IMAGE_EMPTY"),
    )
    assert "5 images, classified" in text
    assert "a-model, version 3, has answered 4 of 5 images from photos" in text
    assert "1 image could not be answered." in text
    assert "2 classes; “cat” most often, for 75 % of the images." in text
    assert "75 % of the images score 0.9 or more; the median lies between 0.95 and 1.00." in text
    assert "IMAGE_EMPTY" in text
    assert "No bytes." in text
    assert "top1_accuracy" in text
    assert "top_k = 5" in text
    assert "Tells cats from dogs." in text


def test_a_detectors_report_counts_objects():
    text = text_of(DETECTIONS, DETECTIONS[:0], facts=replace(FACTS, task="detect"))
    assert "2 objects of 2 classes, 1.0 an image; “cat” most often." in text
    assert "In 1 image nothing was found." in text


def test_a_segmenters_report_leaves_the_background_out():
    text = text_of(SEGMENTATION, facts=replace(FACTS, task="segment"))
    assert "1 class; “cat” in the most images, all of them." in text
    assert "cat 1 25 %" in text or "cat125 %" in text
    assert "How sure it was" not in text


def test_a_job_without_a_single_result_has_a_report():
    text = text_of(ImageError("No.", reason="R"))
    assert "0 of 1 image" in text
    assert "What it saw" not in text


def test_pictures_have_their_size_and_say_in_words_what_they_show():
    page = Page(report(FACTS, *job(classification(("cat", 0.97)), image=png())))
    (first, *_) = page.all("img")
    assert first["alt"] == "0 0.jpg: cat 97.0 %"
    assert (first["width"], first["height"]) == ("480", "360")
    assert first["src"].startswith("data:image/webp;base64,")


def test_charts_are_tables_or_have_a_table_and_a_name():
    page = Page(report(FACTS, *job(classification(("cat", 0.97)))))
    for drawing in page.all("svg"):
        assert drawing.get("aria-hidden") == "true" or (drawing["role"] == "img" and drawing["aria-label"])
    assert len(page.all("caption")) == len(page.all("table"))
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))


def hostile_page():
    model = replace(
        MODEL,
        **dict.fromkeys(
            ("name", "description", "architecture", "licence", "sha256", "runtime_version"), HOSTILE
        ),
        quality=(replace(MODEL.quality[0], metric=HOSTILE, dataset=HOSTILE),),
    )
    facts = replace(FACTS, model=model, source=HOSTILE, destination=HOSTILE, options={HOSTILE: HOSTILE})
    failure = ImageError(HOSTILE, reason=HOSTILE)
    return report(facts, *job(classification((HOSTILE, 0.5)), failure, image=png(), paths=HOSTILE))


def test_nothing_from_outside_is_markup():
    text = hostile_page()
    page = Page(text)
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    assert len(page.all("img")) == 2  # one at random, the same among the least sure
    for tag, attributes in page.elements:
        assert (
            not any(name.startswith("on") or name in ("href", "action") for name in attributes)
            or tag == "link"
        )
        assert "style" not in attributes
    assert "\u202e" not in text
    assert "\x00" not in text
    assert "\\u202e" in text


def test_the_page_asks_for_nothing_and_forbids_it():
    page = Page(hostile_page())
    addresses = [
        value for _, each in page.elements for name, value in each.items() if name in ("src", "href")
    ]
    assert all(address.startswith("data:") for address in addresses)
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_page_stays_under_a_megabyte_whatever_the_job_was():
    outcomes = [classification((f"\u202e{HOSTILE * 20}{number}", 0.5)) for number in range(600)]
    outcomes += [ImageError(HOSTILE * 100, reason=f"{HOSTILE}{number}" * 20) for number in range(200)]
    text = report(FACTS, *job(*outcomes, image=png(), paths=HOSTILE * 100))
    assert text.count("<img") == 18
    assert len(text.encode()) < 1_000_000


def test_a_report_appears_whole(tmp_path):
    write_report(Disk(tmp_path), FACTS, Summary(), Sample())
    assert (tmp_path / "_report.html").read_text(encoding="utf-8").endswith("</html>\n")


def test_markup_goes_in_as_it_is_and_text_as_text():
    assert element("p", "a<b", Html("<i>"), 3, None, class_="x", aria_label='"', id=None) == (
        '<p class="x" aria-label="&quot;">a&lt;b<i>3</p>'
    )
    assert element("img", alt="") == '<img alt="">'
    assert join("&", element("b")) == "&amp;<b></b>"
    assert clip("abcdef", 4) == "abc…"
    assert clip("\x1b" * 100, 10) == "\\x1b\\x1b\\…"


def results_of(folder):
    summary = json.loads((folder / "_summary.json").read_text(encoding="utf-8"))
    shown = re.findall("<figcaption>.*?</figcaption>", (folder / "_report.html").read_text(encoding="utf-8"))
    return summary, shown


def test_a_job_that_was_broken_off_reports_on_the_whole_as_one_that_was_not(score, server, folder, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert score(folder, "--rows-per-part", 10, out=whole).exit_code == 0
    answered = []

    def go_away(request, context):
        answered.extend(getattr(request, "images", ()))
        if len(answered) > 45:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Gone.")

    server.service.on_request = go_away
    again = (folder, "--rows-per-part", 10, "--patience", 0)
    assert score(*again, out=broken).exit_code == 2
    assert not (broken / "_report.html").exists()
    assert (broken / "_journal.jsonl").read_text(encoding="utf-8").count("\n") > 1
    assert (broken / "_sample.json").exists()
    server.service.on_request = None
    result = score(*again, "--json-progress", out=broken)
    assert result.exit_code == 0
    assert json.loads(result.stderr.splitlines()[-1])["images"] == 100
    (summary, shown), (expected, expected_shown) = results_of(broken), results_of(whole)
    for name in ("images", "scored", "failed", "versions", "classes", "score_bins", "errors"):
        assert summary[name] == expected[name]
    assert len(shown) == 18
    assert shown == expected_shown
    assert not (broken / "_sample.json").exists()


def test_a_job_may_go_without_a_report(score, folder, tmp_path):
    result = score(folder, "--no-report", out=tmp_path / "out")
    assert result.exit_code == 0
    assert "report" not in result.stdout
    assert not (tmp_path / "out" / "_report.html").exists()


@pytest.mark.parametrize("arguments", [("--quiet",), ("--json-progress",)])
def test_standard_output_is_empty_where_nobody_reads_it(score, folder, tmp_path, arguments):
    result = score(folder, *arguments, out=tmp_path / "out")
    assert (result.exit_code, result.stdout) == (0, "")
    assert (result.stderr == "") == ("--quiet" in arguments)


def test_quiet_and_json_exclude_each_other(score, folder, tmp_path):
    result = score(folder, "--quiet", "--json-progress", out=tmp_path / "out")
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr

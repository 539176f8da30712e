"""The page of a report."""

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path

from retinue_client._score.disk import Disk
from retinue_client._score.document import JobFacts
from retinue_client._score.report.answers import classes, pictures, scores
from retinue_client._score.report.course import failures, heading, particulars, times
from retinue_client._score.report.markup import Html, clip, element
from retinue_client._score.sample import Sample
from retinue_client._score.summary import Summary

REPORT = "_report.html"
_STYLE = Path(__file__).with_name("report.css")


def write_report(disk: Disk, facts: JobFacts, summary: Summary, sample: Sample) -> None:
    """Writes `_report.html`.

    Raises:
        OSError: It cannot be written.
    """
    disk.write(REPORT, report(facts, summary, sample).encode())


def report(facts: JobFacts, summary: Summary, sample: Sample) -> str:
    """The page, under a megabyte.

    Its content security policy allows its own style sheet and the pictures in it, and nothing else: no script, no
    form, no address.
    """
    style = _STYLE.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    title = f"{summary.images:,} images: {facts.task} with {clip(facts.model.name, 80)}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        # Else browsers ask the page's host for one.
        element("link", rel="icon", href="data:,"),
        element("style", Html(style)),
    )
    main = element(
        "main",
        classes(facts, summary),
        scores(facts, summary),
        pictures(facts, sample),
        failures(summary),
        times(summary),
        particulars(facts, summary),
    )
    body = element("body", element("header", heading(facts, summary)), main, _footer(facts))
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"


def _footer(facts: JobFacts) -> Html:
    now = datetime.now(UTC)
    when = element("time", f"{now:%-d %B %Y, %H:%M} UTC", datetime=now.isoformat(timespec="seconds"))
    return element("footer", f"Written by retinue-client {facts.client} on ", when, ".")

"""The sections on how the job went: its heading, errors, times, and what it was."""

import json

from retinue_client._score.document import JobFacts, latency_ms
from retinue_client._score.report.chart import stack, swatch
from retinue_client._score.report.layout import (
    aside,
    bar_cell,
    facts_list,
    number_cell,
    remark,
    row,
    row_header,
    section,
    table,
    text_cell,
)
from retinue_client._score.report.markup import Content, Html, clip, element, join
from retinue_client._score.report.words import many, milliseconds, percent, span
from retinue_client._score.summary import STAGES, WAITS, Stage, Summary

_MOST_REASONS = 12
_MOST_EXAMPLES = 3
_MOST_QUALITIES = 12
_MOST_VERSIONS = 8
_VERBS = {"classify": "classified", "detect": "searched for objects", "segment": "segmented"}
_DOES: dict[Stage, str] = {
    "reading": "reading the image from where it lies",
    "pace": "until the server had room for its request",
    "transport": "the request’s way there and back: gRPC and the network",
    "queue": "in the server’s queue, for the engine",
    "decoding": "decoding and resizing it on the server",
    "inference": "its share of the network’s run",
    "postprocessing": "making a result of the network’s output",
    "writing": "writing its row",
}
_WORK = tuple(stage for stage in STAGES if stage not in WAITS)
# The style sheet's colours, which stay with their stages whatever others there are.
_COLOURS = {stage: f"s{place}" for place, stage in enumerate(_WORK)}


def heading(facts: JobFacts, summary: Summary) -> Html:
    """What was done, how it went, and the four figures that people ask for first."""
    versions = " and ".join(f"version {version}" for version in sorted(summary.versions)[:_MOST_VERSIONS])
    deck = f"{clip(facts.model.name, 120)}{', ' + versions + ',' if versions else ''} has answered "
    deck += f"{summary.scored:,} of {many(summary.images, 'image')} from {clip(facts.source, 200)}"
    deck += f" in {span(summary.seconds)}."
    deck += f" {_failures_sentence(summary)}" if summary.failed else " Every one has a result."
    latency = latency_ms(summary)
    rate = summary.images / summary.seconds if summary.seconds > 0 else 0.0
    tail = f"ms at the median; 99 of 100 within {milliseconds(latency['p99'])} ms"
    return join(
        element("p", "Retinue · scoring report", class_="kicker"),
        element("h1", f"{many(summary.images, 'image')}, {_VERBS[facts.task]}"),
        element("p", deck, class_="deck"),
        element(
            "dl",
            _figure(f"{rate:,.0f}" if rate >= 100 else f"{rate:,.1f}", "images a second"),
            _figure(milliseconds(latency["p50"]), tail),
            _figure(f"{summary.failed:,}", "without a result"),
            _figure(summary.slowest_stage() or "–", "took most of the work"),
            class_="figures",
        ),
    )


def failures(summary: Summary) -> Html | None:
    """Why images have no result, with examples."""
    if not summary.failed:
        return None
    rows = []
    for reason, count in summary.reasons.most_common(_MOST_REASONS):
        examples = [
            element(
                "p", element("code", clip(path, 200)), element("span", clip(message, 200), class_="aside")
            )
            for path, message in summary.examples.get(reason, [])[:_MOST_EXAMPLES]
        ]
        name = row_header(element("code", clip(reason, 80), class_="strong"), *examples)
        rows.append(row(name, number_cell(f"{count:,}")))
    return section(
        "What went wrong",
        element("p", f"{_failures_sentence(summary)} Their rows hold the reason in place of a result."),
        table("Errors by reason", [("Reason, and examples", "text"), ("Images", "number")], rows),
    )


def times(summary: Summary) -> Html | None:
    """Where the time went."""
    means = {stage: summary.mean_ms(stage) or 0.0 for stage in STAGES}
    total = sum(means[stage] for stage in _WORK)
    if not total:
        return None
    shares = {stage: means[stage] / total for stage in _WORK if means[stage] > 0}
    rows = [
        row(
            row_header(swatch(_COLOURS[stage]), stage, aside(_DOES[stage])),
            number_cell(milliseconds(means[stage])),
            number_cell(percent(share)),
        )
        for stage, share in shares.items()
    ]
    label = "; ".join(f"{stage} {percent(share)}" for stage, share in shares.items())
    waits = " and ".join(
        f"{milliseconds(means[stage])} ms {_DOES[stage]}" for stage in STAGES if stage in WAITS
    )
    batch = f" Batches had {summary.batch_sizes / summary.timed:.1f} images." if summary.timed else ""
    return section(
        "Where the time went",
        element(
            "p",
            f"An average image took {milliseconds(total)} ms of work, most of it in {summary.slowest_stage()}.",
        ),
        stack([(_COLOURS[stage], share) for stage, share in shares.items()], f"Work by stage: {label}"),
        table("Work by stage", [("Stage", "text"), ("ms an image", "number"), ("Share", "number")], rows),
        remark(f"Besides, it waited: {waits}.{batch}"),
        _latency(summary),
    )


def particulars(facts: JobFacts, summary: Summary) -> Html:
    """What was asked of which model, so that it can be done again."""
    job = {
        "Source": facts.source,
        "Results": facts.destination,
        "Options": ", ".join(f"{name} = {json.dumps(value)}" for name, value in facts.options.items()),
        "Time": span(summary.seconds),
    }
    return section(
        "How it was done",
        element(
            "div",
            element("div", element("h3", "The job"), facts_list(job)),
            element("div", element("h3", "The model"), facts_list(_model(facts, summary))),
            class_="pair",
        ),
        _quality(facts),
    )


def _latency(summary: Summary) -> Content:
    values = {name: value for name, value in latency_ms(summary).items() if value is not None}
    if not values:
        return None
    longest = max(*values.values(), 1e-9)
    rows = [
        row(row_header(name), bar_cell(value / longest), number_cell(milliseconds(value)))
        for name, value in values.items()
    ]
    return join(
        element("h3", "From sending a request until its answer"),
        table("Latency", [("Of all images", "text"), ("", "bar"), ("ms", "number")], rows),
    )


def _model(facts: JobFacts, summary: Summary) -> dict[str, str]:
    model = facts.model
    answered = [f"{version} ({many(count, 'image')})" for version, count in sorted(summary.versions.items())]
    return {
        "Name": model.name,
        "Version": ", ".join(answered[:_MOST_VERSIONS]) or str(model.version),
        "Description": model.description,
        "Architecture": model.architecture,
        "Input": f"{model.input_width} × {model.input_height}, {model.colour}",
        "Classes": f"{len(model.labels):,}",
        "Precision": model.precision,
        "Provider": f"{model.provider}, ONNX Runtime {model.runtime_version}",
        "Licence": model.licence,
        "Made": model.created_at,
        "SHA-256": model.sha256,
    }


def _quality(facts: JobFacts) -> Content:
    if not facts.model.quality:
        return None
    rows = [
        row(
            row_header(clip(one.metric, 60)),
            number_cell(f"{one.value:.4g}"),
            text_cell(
                f"{clip(one.dataset, 80)}, {many(one.images, 'image')}",
                aside(f"{clip(one.precision, 20)}, {clip(one.engine, 20)}"),
            ),
        )
        for one in facts.model.quality[:_MOST_QUALITIES]
    ]
    return join(
        element("h3", "What was measured of the model"),
        table("Quality of the model", [("Measure", "text"), ("Value", "number"), ("On", "text")], rows),
    )


def _figure(value: str, name: str) -> Html:
    return element("div", element("dt", name), element("dd", value))


def _failures_sentence(summary: Summary) -> str:
    return f"{many(summary.failed, 'image')} could not be answered."

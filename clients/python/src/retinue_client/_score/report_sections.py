"""What a report says, section by section."""

import base64
import json
from collections.abc import Callable, Iterable, Sequence

from retinue_client._score.chart import bar, columns, stack, swatch
from retinue_client._score.document import JobFacts, latency_ms
from retinue_client._score.markup import Content, Html, clip, element, join
from retinue_client._score.sample import Sample, Shown
from retinue_client._score.summary import SCORE_BINS, STAGES, WAITS, Stage, Summary

_MOST_CLASSES = 20
_MOST_REASONS = 12
_MOST_EXAMPLES = 3
_MOST_QUALITIES = 12
_VERBS = {"classify": "classified", "detect": "searched for objects", "segment": "segmented"}
_DOES: dict[Stage, str] = {
    "reading": "reading the image from where it lies",
    "pace": "until the server had room for its request",
    "transport": "the request's way there and back: gRPC and the network",
    "queue": "in the server's queue, for the engine",
    "decoding": "decoding and resizing it, on the server",
    "inference": "its share of the network's run",
    "postprocessing": "making a result of the network's output",
    "writing": "writing its row",
}

Section = Callable[[JobFacts, Summary, Sample], Html | None]


def heading(facts: JobFacts, summary: Summary) -> Html:
    """What was done, how it went, and the four figures that people ask for first."""
    scored = f"{summary.scored:,} of {_many(summary.images, 'image')}"
    versions = " and ".join(f"version {version}" for version in sorted(summary.versions)[:4])
    deck = f"{clip(facts.model.name, 120)}{', ' + versions + ',' if versions else ''} has answered {scored}"
    deck += f" from {clip(facts.source, 200)}"
    deck += f" in {_span(summary.seconds)}."
    deck += " Every one has a result." if not summary.failed else f" {_failures(summary)}"
    latency = latency_ms(summary)
    rate = summary.images / summary.seconds if summary.seconds > 0 else 0.0
    slowest = summary.slowest_stage()
    return join(
        element("p", "Retinue · scoring report", class_="kicker"),
        element("h1", f"{_many(summary.images, 'image')}, {_VERBS[facts.task]}"),
        element("p", deck, class_="deck"),
        element(
            "dl",
            _figure(f"{rate:,.0f}" if rate >= 100 else f"{rate:,.1f}", "images a second", ""),
            _figure(_ms(latency["p50"]), f"median latency; 99 of 100 within {_ms(latency['p99'])} ms", "ms"),
            _figure(f"{summary.failed:,}", "without a result", ""),
            _figure(slowest or "–", "the stage that took the most work", ""),
            class_="figures",
        ),
    )


def classes(facts: JobFacts, summary: Summary, sample: Sample) -> Html | None:
    """How often each class was met."""
    if not summary.scored:
        return None
    most = max(summary.classes.values(), default=1)
    total = max(1, summary.classes.total() + summary.other_classes)
    pixels = max(1, summary.pixels.total())
    what = {"classify": "Best class", "detect": "Object", "segment": "Class"}[facts.task]
    header = [what, None, "Objects" if facts.task == "detect" else "Images"]
    header.append("Of all pixels" if facts.task == "segment" else "Share")
    rows = []
    for key, count in summary.classes.most_common(_MOST_CLASSES):
        share = summary.pixels[key] / pixels if facts.task == "segment" else count / total
        cells = [_row_header(clip(key[1], 120) or f"class {key[0]}"), _bar_cell(count / most)]
        rows.append(element("tr", *cells, _number(f"{count:,}"), _number(_percent(share))))
    further = len(summary.classes) - _MOST_CLASSES
    notes = []
    if further > 0 or summary.other_classes:
        more = "" if summary.other_classes == 0 else " and more"
        notes.append(
            f"{_many(max(further, 0), 'further class', 'further classes')}{more} are in the results."
        )
    if summary.empty:
        nothing = {
            "classify": "no class that scored enough",
            "detect": "nothing in it",
            "segment": "no class",
        }
        notes.append(f"{_many(summary.empty, 'image')} had {nothing[facts.task]}.")
    return _section(
        "What it saw",
        element("p", _classes_sentence(facts, summary)),
        _table(header, rows, "How often each class was met") if rows else None,
        element("p", " ".join(notes), class_="note") if notes else None,
    )


def scores(facts: JobFacts, summary: Summary, sample: Sample) -> Html | None:
    """How the scores are distributed."""
    total = sum(summary.scores)
    if not total:
        return None
    of = "objects" if facts.task == "detect" else "images"
    ranges = [f"{low / SCORE_BINS:.2f} to {(low + 1) / SCORE_BINS:.2f}" for low in range(SCORE_BINS)]
    titles = [f"{label}: {count:,} {of}" for label, count in zip(ranges, summary.scores, strict=True)]
    median = next(low for low in range(SCORE_BINS) if sum(summary.scores[: low + 1]) * 2 >= total)
    sure = sum(summary.scores[SCORE_BINS * 9 // 10 :])
    sentence = f"{_share(sure, total)} of the {of} have a score of 0.9 or more"
    sentence += f"; the median lies between {ranges[median].replace(' to ', ' and ')}."
    rows = [
        element("tr", _row_header(label), _number(f"{count:,}"), _number(_percent(count / total)))
        for label, count in zip(ranges, summary.scores, strict=True)
    ]
    return _section(
        "How sure it was",
        element("p", sentence),
        element(
            "h3", "Score of each object" if facts.task == "detect" else "Score of each image’s best class"
        ),
        columns(summary.scores, titles, f"Distribution of scores. {sentence}"),
        element("p", *(element("span", f"{tick / 4:g}") for tick in range(5)), class_="axis"),
        _details("The distribution as a table", _table(["Score", of.capitalize(), "Share"], rows, None)),
    )


def pictures(facts: JobFacts, summary: Summary, sample: Sample) -> Html | None:
    """Images at random, and those with the lowest scores."""
    if not sample.random:
        return None
    unsure: list[Html] = []
    if sample.unsure:
        said = "whose best object scores least" if facts.task == "detect" else "whose best class scores least"
        unsure = [element("h3", f"The {_many(len(sample.unsure), 'image')} {said}"), _gallery(sample.unsure)]
    return _section(
        "What it looks like",
        element("h3", f"{_many(len(sample.random), 'image')} at random"),
        _gallery(sample.random),
        *unsure,
    )


def failures(facts: JobFacts, summary: Summary, sample: Sample) -> Html | None:
    """Why images have no result, with examples."""
    if not summary.failed:
        return None
    rows = []
    for reason, count in summary.reasons.most_common(_MOST_REASONS):
        shown = [
            element("p", element("code", clip(path, 200)), ": ", clip(message, 200), class_="note")
            for path, message in summary.examples.get(reason, [])[:_MOST_EXAMPLES]
        ]
        rows.append(
            element(
                "tr", _row_header(element("code", clip(reason, 80))), _number(f"{count:,}"), _cell(*shown)
            )
        )
    return _section(
        "What went wrong",
        element("p", f"{_failures(summary)} Their rows hold the reason in place of a result."),
        _table(["Reason", "Images", "For example"], rows, "Errors by reason"),
    )


def times(facts: JobFacts, summary: Summary, sample: Sample) -> Html | None:
    """Where the time went."""
    means = {stage: summary.mean_ms(stage) or 0.0 for stage in STAGES}
    work = [stage for stage in STAGES if stage not in WAITS and means[stage] > 0]
    total = sum(means[stage] for stage in work)
    if not total:
        return None
    names = {stage: f"s{place}" for place, stage in enumerate(one for one in STAGES if one not in WAITS)}
    rows = [
        element(
            "tr",
            _row_header(swatch(names[stage]), stage),
            _number(_ms(means[stage])),
            _number(_percent(means[stage] / total)),
            _cell(_DOES[stage]),
        )
        for stage in work
    ]
    label = "; ".join(f"{stage} {_percent(means[stage] / total)}" for stage in work)
    batch = f" Batches had {summary.batch_sizes / summary.timed:.1f} images." if summary.timed else ""
    waits = " and ".join(f"{_ms(means[stage])} ms {_DOES[stage]}" for stage in STAGES if stage in WAITS)
    latency = {name: value for name, value in latency_ms(summary).items() if value is not None}
    longest = max(latency.values(), default=1.0) or 1.0
    latency_rows = [
        element("tr", _row_header(name), _bar_cell(value / longest), _number(_ms(value)))
        for name, value in latency.items()
    ]
    return _section(
        "Where the time went",
        element(
            "p", f"An average image took {_ms(total)} ms of work, most of it in {summary.slowest_stage()}."
        ),
        stack([(names[stage], means[stage] / total) for stage in work], f"Work by stage: {label}"),
        _table(["Stage", "ms an image", "Share", "What is done"], rows, None),
        element("p", f"Besides, it waited: {waits}.{batch}", class_="note"),
        join(
            element("h3", "From sending a request until its answer"),
            _table(["", None, "ms"], latency_rows, None),
        )
        if latency_rows
        else None,
    )


def particulars(facts: JobFacts, summary: Summary, sample: Sample) -> Html | None:
    """What was asked of which model, so that it can be done again."""
    model = facts.model
    about = {
        "Source": facts.source,
        "Results": facts.destination,
        "Options": ", ".join(f"{name} = {json.dumps(value)}" for name, value in facts.options.items()),
        "Time": _span(summary.seconds),
    }
    answered = ", ".join(
        f"{version} ({count:,} images)" for version, count in sorted(summary.versions.items())
    )
    says = {
        "Name": model.name,
        "Version": answered or str(model.version),
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
    rows = [
        element(
            "tr",
            _row_header(clip(one.metric, 60)),
            _number(f"{one.value:.4g}"),
            _cell(f"{clip(one.dataset, 80)}, {_many(one.images, 'image')}"),
            _cell(f"{clip(one.precision, 20)}, {clip(one.engine, 20)}"),
        )
        for one in model.quality[:_MOST_QUALITIES]
    ]
    return _section(
        "How it was done",
        element(
            "div",
            element("div", element("h3", "The job"), _facts(about)),
            element("div", element("h3", "The model"), _facts(says)),
            class_="pair",
        ),
        join(
            element("h3", "What was measured of it"),
            _table(["Measure", "Value", "On", "In"], rows, None),
        )
        if rows
        else None,
    )


SECTIONS: tuple[Section, ...] = (classes, scores, pictures, failures, times, particulars)
"""In the order in which they are read."""


def _classes_sentence(facts: JobFacts, summary: Summary) -> str:
    if not summary.classes:
        return "No image had anything to name."
    (_, label), count = summary.classes.most_common(1)[0]
    label = clip(label, 120)
    kinds = _many(len(summary.classes), "class", "classes")
    if facts.task == "detect":
        objects = summary.classes.total() + summary.other_classes
        return f"{_many(objects, 'object')} of {kinds}, {objects / summary.scored:.1f} an image; “{label}” most often."
    if facts.task == "segment":
        return f"{kinds}; “{label}” in the most images, {_share(count, summary.scored)} of them."
    return f"{kinds}; “{label}” most often, {_share(count, summary.scored)} of the images."


def _gallery(sample: Sequence[Shown]) -> Html:
    return element(
        "ul", *(element("li", _picture(shown)) for shown in sample), class_="pictures", role="list"
    )


def _picture(shown: Shown) -> Html:
    key, says = clip(shown.key, 200), clip(shown.says, 300)
    if not shown.picture:
        picture = element("p", "too large to be drawn here, or not readable by this client", class_="blank")
    else:
        address = "data:image/webp;base64," + base64.b64encode(shown.picture).decode("ascii")
        picture = element(
            "img",
            src=address,
            alt=f"{key}: {says}",
            width=shown.size[0],
            height=shown.size[1],
            loading="lazy",
        )
    return element("figure", picture, element("figcaption", says, element("span", key)))


def _section(title: str, *content: Content) -> Html:
    return element("section", element("h2", title), *content)


def _details(title: str, content: Html) -> Html:
    return element("details", element("summary", title), content)


def _table(header: Sequence[str | None], rows: Iterable[Html], caption: str | None) -> Html:
    """A table whose rows come as they are; a column without a name has bars, one with "" a name that is seen."""
    names = [
        element("td") if not name else element("th", name, scope="col", class_=_column_class(name))
        for name in header
    ]
    return element(
        "table",
        element("caption", caption) if caption else None,
        element("thead", element("tr", *names)),
        element("tbody", *rows),
    )


def _column_class(name: str) -> str | None:
    numbers = {"Images", "Objects", "Share", "Of all pixels", "ms an image", "ms", "Value"}
    return "number" if name in numbers else None


def _row_header(*content: Content) -> Html:
    return element("th", *content, scope="row")


def _cell(*content: Content) -> Html:
    return element("td", *content)


def _number(text: str) -> Html:
    return element("td", text, class_="number")


def _bar_cell(share: float) -> Html:
    return element("td", bar(share), class_="barred")


def _figure(value: str, name: str, unit: str) -> Html:
    shown = element("dd", value, element("small", f" {unit}") if unit else None)
    return element("div", element("dt", name), shown)


def _facts(values: dict[str, str]) -> Html:
    items = [
        join(element("dt", name), element("dd", clip(value, 600))) for name, value in values.items() if value
    ]
    return element("dl", *items, class_="facts")


def _failures(summary: Summary) -> str:
    return f"{_many(summary.failed, 'image')} could not be answered."


def _many(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _share(count: int, total: int) -> str:
    return "All" if count == total else _percent(count / max(1, total))


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "<0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} seconds"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} minutes"
    return f"{minutes // 60} h {minutes % 60:02} min"

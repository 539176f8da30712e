"""The sections on what was answered: classes, scores, and what it looks like."""

import base64
from collections.abc import Sequence

from retinue_client._score.document import JobFacts
from retinue_client._score.report.chart import columns
from retinue_client._score.report.layout import (
    Column,
    bar_cell,
    number_cell,
    remark,
    row,
    row_header,
    section,
    table,
)
from retinue_client._score.report.markup import Html, caption, clip, element
from retinue_client._score.report.words import many, part_of, percent
from retinue_client._score.sample import Sample, Shown
from retinue_client._score.summary import SCORE_BINS, Summary
from retinue_client._segmentation import ClassArea

_MOST_CLASSES = 20
_NOTHING = {
    "classify": "For {images} no class scored enough.",
    "detect": "In {images} nothing was found.",
    "segment": "In {images} there was no class.",
}


def classes(facts: JobFacts, summary: Summary) -> Html | None:
    """How often each class was met; of a segmenter, those that are objects."""
    if not summary.scored:
        return None
    met = [(key, count) for key, count in summary.classes.most_common() if not _is_background(facts, key)]
    of = "Objects" if facts.task == "detect" else "Images"
    heads: list[Column] = [("Class", "text"), ("", "bar"), (of, "number")]
    heads.append(("Of all pixels" if facts.task == "segment" else "Share", "number"))
    most = max((count for _, count in met), default=1)
    rows = []
    for key, count in met[:_MOST_CLASSES]:
        share = _share_of(facts, summary, key, count)
        name = row_header(clip(key[1], 120) or f"class {key[0]}")
        rows.append(row(name, bar_cell(count / most), number_cell(f"{count:,}"), number_cell(percent(share))))
    remarks = []
    if len(met) > _MOST_CLASSES:
        remarks.append(f"{many(len(met) - _MOST_CLASSES, 'further class', 'further classes')} follow.")
    if summary.other_classes:
        remarks.append(f"{summary.other_classes:,} {of.lower()} are of classes beyond these.")
    if summary.empty:
        remarks.append(_NOTHING[facts.task].format(images=many(summary.empty, "image")))
    return section(
        "What it saw",
        element("p", _classes_sentence(facts, summary, met)),
        table("How often each class was met", heads, rows) if rows else None,
        remark(" ".join(remarks)) if remarks else None,
    )


def scores(facts: JobFacts, summary: Summary) -> Html | None:
    """How the scores are distributed."""
    total = sum(summary.scores)
    if not total:
        return None
    of, title = "images", "Score of each image’s best class"
    if facts.task == "detect":
        of, title = "objects", "Score of each object"
    bounds = [(low / SCORE_BINS, (low + 1) / SCORE_BINS) for low in range(SCORE_BINS)]
    titles = [
        f"{low:.2f} to {high:.2f}: {count:,} {of}"
        for (low, high), count in zip(bounds, summary.scores, strict=True)
    ]
    median = next(bounds[one] for one in range(SCORE_BINS) if sum(summary.scores[: one + 1]) * 2 >= total)
    sure = sum(summary.scores[SCORE_BINS * 9 // 10 :])
    sentence = f"{part_of(sure, total).capitalize()} of the {of} score 0.9 or more; "
    sentence += f"the median lies between {median[0]:.2f} and {median[1]:.2f}."
    rows = [
        row(
            row_header(f"{low:.2f} to {high:.2f}"),
            number_cell(f"{count:,}"),
            number_cell(percent(count / total)),
        )
        for (low, high), count in zip(bounds, summary.scores, strict=True)
    ]
    heads: list[Column] = [("Score", "text"), (of.capitalize(), "number"), ("Share", "number")]
    return section(
        "How sure it was",
        element("p", sentence),
        element("h3", title),
        element("p", f"{max(summary.scores):,} {of} in the highest column", class_="note top"),
        columns(summary.scores, titles, f"Distribution of scores. {sentence}"),
        element("p", *(element("span", f"{tick / 4:g}") for tick in range(5)), class_="axis"),
        element(
            "details",
            element("summary", "The distribution as a table"),
            table("Distribution of scores", heads, rows),
        ),
    )


def pictures(facts: JobFacts, sample: Sample) -> Html | None:
    """Images at random, and those with the lowest scores."""
    if not sample.random:
        return None
    unsure: list[Html] = []
    if sample.unsure:
        said = "surest object scores least" if facts.task == "detect" else "best class scores least"
        unsure = [
            element("h3", f"{many(len(sample.unsure), 'image')} whose {said}"),
            _gallery(facts, sample.unsure),
        ]
    return section(
        "What it looks like",
        element("h3", f"{many(len(sample.random), 'image')} at random"),
        _gallery(facts, sample.random),
        *unsure,
    )


def _is_background(facts: JobFacts, key: tuple[int, str]) -> bool:
    return facts.task == "segment" and ClassArea(key[0], key[1], 0).is_background


def _share_of(facts: JobFacts, summary: Summary, key: tuple[int, str], count: int) -> float:
    if facts.task == "segment":
        return summary.pixels[key] / max(1, summary.pixels.total())
    return count / (summary.classes.total() + summary.other_classes)


def _classes_sentence(facts: JobFacts, summary: Summary, met: Sequence[tuple[tuple[int, str], int]]) -> str:
    if not met:
        return "There was nothing to name."
    (_, label), count = met[0]
    name, kinds = f"“{clip(label, 120)}”", many(len(met), "class", "classes")
    if facts.task == "detect":
        objects = summary.classes.total() + summary.other_classes
        return f"{many(objects, 'object')} of {kinds}, {objects / summary.scored:.1f} an image; {name} most often."
    if facts.task == "segment":
        return f"{kinds}; {name} in the most images, {part_of(count, summary.scored)} of them."
    return f"{kinds}; {name} most often, for {part_of(count, summary.scored)} of the images."


def _gallery(facts: JobFacts, sample: Sequence[Shown]) -> Html:
    # What is written in a picture must be large enough to be read.
    name = "pictures" if facts.task == "classify" else "pictures wide"
    return element("ul", *(element("li", _picture(shown)) for shown in sample), class_=name, role="list")


def _picture(shown: Shown) -> Html:
    key, says = clip(shown.key, 200), clip(shown.says, 300)
    if not shown.picture:
        picture = element("p", "too large to be drawn here, or not readable by this client", class_="blank")
    else:
        address = "data:image/webp;base64," + base64.b64encode(shown.picture).decode("ascii")
        width, height = shown.size
        picture = element("img", src=address, alt=f"{key}: {says}", width=width, height=height)
    return element("figure", picture, element("figcaption", caption(says), element("span", key)))

"""The dashboard of batch jobs: what is asked for with low priority, and what that does to all others."""

from page import dashboard as page
from panels import (
    BATCH_SIZE,
    IMAGES,
    MODEL,
    OK,
    RECEIVED,
    SECONDS,
    SERVER,
    Json,
    chart,
    quantile,
    rate,
    stat,
    target,
    utilisation,
)

# `retinue score` asks so unless told otherwise.
_LOW = f'{MODEL}, priority="low"'
_OTHERS = f'{MODEL}, priority!="low"'
_ANSWERED = f'{_LOW}, outcome="answered"'
_ENGINE = f'{SERVER}, pool="engine"'
_LOST = 'outcome!="answered"'


def now() -> list[Json]:
    """The figures to look at first."""
    return [
        stat(
            "Throughput",
            "Images of low priority answered in a second.",
            "suffix: images/s",
            f"sum({rate(IMAGES, _ANSWERED)})",
            w=4,
        ),
        stat(
            "Done",
            "Images of low priority answered in the time that is shown.",
            "none",
            f"sum(increase({IMAGES}{{{_ANSWERED}}}[$__range]))",
            w=4,
        ),
        stat(
            "In the server",
            "Images of low priority that wait or run now. 0 while a job runs means that the job is the slower part.",
            "none",
            f"sum({RECEIVED}{{{_LOW}}}) - sum({IMAGES}{{{_LOW}}})",
            w=4,
        ),
        stat(
            "Lost",
            "Share of images of low priority without an answer. A job asks again for what was refused or too late.",
            "percentunit",
            f"sum({rate(IMAGES, f'{_LOW}, {_LOST}')}) / sum({rate(IMAGES, _LOW)})",
            orange=0.01,
            red=0.1,
            w=4,
        ),
        stat(
            "Engine",
            "The share of their time that the threads which run networks are busy. A job alone should fill it.",
            "percentunit",
            f"max({utilisation('instance, pool', _ENGINE)})",
            w=4,
        ),
        stat(
            "Others lost",
            "Share of all other images without an answer: low priority must not cost them theirs.",
            "percentunit",
            f"(sum({rate(IMAGES, f'{_OTHERS}, {_LOST}')}) or vector(0)) / sum({rate(IMAGES, _OTHERS)})",
            orange=0.001,
            red=0.01,
            w=4,
        ),
    ]


def progress() -> list[Json]:
    """What is done, and what becomes of it."""
    return [
        chart(
            "Throughput by model",
            "Images of low priority answered in a second.",
            "suffix: images/s",
            target(f"sum by (model) ({rate(IMAGES, _ANSWERED)})", "{{model}}"),
        ),
        chart(
            "Images by outcome",
            "Images of low priority a second. Failed ones have a row with the reason in the job's output.",
            "suffix: images/s",
            target(f"sum by (model, outcome) ({rate(IMAGES, _LOW)})", "{{model}} {{outcome}}"),
        ),
        chart(
            "In the server by priority",
            "Images that were received and have no outcome yet. Those of low priority wait while others do.",
            "none",
            target(
                f"sum by (priority) ({RECEIVED}{{{MODEL}}}) - sum by (priority) ({IMAGES}{{{MODEL}}})",
                "{{priority}}",
            ),
        ),
    ]


def cost() -> list[Json]:
    """What a job takes, and what that does to all others."""
    return [
        chart(
            "Images by priority",
            "Images answered in a second, a job's beside the others'.",
            "suffix: images/s",
            target(
                "sum by (priority) (" + rate(IMAGES, f'{MODEL}, outcome="answered"') + ")", "{{priority}}"
            ),
            stack=True,
        ),
        chart(
            "Images without an answer by priority",
            "Images a second that failed, were refused or were not wanted any more.",
            "suffix: images/s",
            target("sum by (priority) (" + rate(IMAGES, f"{MODEL}, {_LOST}") + ")", "{{priority}}"),
        ),
        chart(
            "Request latency",
            "Of all answered calls. A job's own are in it, and take as long as they wait.",
            "s",
            target(quantile(0.5, SECONDS, selector=OK), "p50"),
            target(quantile(0.99, SECONDS, selector=OK), "p99"),
        ),
        chart(
            "Refused and late by model",
            "Images of low priority a second that were refused for load or were too late. A job asks again, and slows "
            "down.",
            "suffix: images/s",
            target(
                "sum by (model, outcome) (" + rate(IMAGES, f'{_LOW}, outcome=~"refused|cancelled"') + ")",
                "{{model}} {{outcome}}",
            ),
        ),
        chart(
            "Batch size by model",
            "Images that ran together, on average. A job should fill batches.",
            "none",
            target(
                f"sum by (model) ({rate(f'{BATCH_SIZE}_sum')}) / sum by (model) ({rate(f'{BATCH_SIZE}_count')})",
                "{{model}}",
            ),
        ),
        chart(
            "Utilisation by pool",
            "The share of their time that threads are busy. Where decoding is the fullest, more front-ends help.",
            "percentunit",
            target(utilisation("instance, pool"), "{{instance}} {{pool}}"),
        ),
    ]


def dashboard() -> Json:
    """The whole dashboard."""
    return page(
        "retinue-batch",
        "Retinue: batch jobs",
        "What retinue score and others ask of Retinue servers with low priority, and what that does to all others.",
        [("Now", now()), ("Progress", progress()), ("Cost", cost())],
    )

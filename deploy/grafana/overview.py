"""The first dashboard: what is asked of all servers, how fast it is answered, and what fails."""

from page import dashboard as page
from panels import (
    BATCH_SIZE,
    FAULTS,
    IMAGES,
    MODEL,
    OK,
    PERCENTILES,
    REQUESTS,
    SECONDS,
    SERVER,
    STAGE_SECONDS,
    Json,
    chart,
    heatmap,
    percentiles,
    quantile,
    rate,
    stat,
    table,
    target,
)

_MODEL_PAGE = (
    "/d/retinue-model?${__url_time_range}"
    "&var-instance=${__data.fields.instance}&var-model=${__data.fields.model}"
)


def overview() -> list[Json]:
    """The figures to look at first."""
    return [
        stat("Servers ready", "Servers that take requests.", "none", f"sum(retinue_ready{{{SERVER}}})"),
        stat("Requests", "Calls answered in a second.", "reqps", f"sum({rate(REQUESTS)})"),
        stat(
            "Images",
            "Images answered in a second.",
            "suffix: images/s",
            "sum(" + rate(IMAGES, f'{MODEL}, outcome="answered"') + ")",
        ),
        stat(
            "Failing",
            "Share of calls that ended in a server's error, were refused for load, or were too late. "
            "Callers' own mistakes are not in it.",
            "percentunit",
            f"(sum({rate(REQUESTS, FAULTS)}) or vector(0)) / sum({rate(REQUESTS)})",
            orange=0.001,
            red=0.01,
        ),
        stat(
            "p99",
            "99 of 100 answered calls were faster.",
            "s",
            quantile(0.99, SECONDS, selector=OK),
            orange=0.5,
            red=1,
        ),
        stat(
            "Fullest queue",
            "Of the fullest queue of the chosen models, the share that is taken now.",
            "percentunit",
            f"max(retinue_queue_images{{{MODEL}}} / retinue_queue_capacity_images{{{MODEL}}})",
            orange=0.25,
            red=0.9,
        ),
        stat(
            "CPU an image",
            "Processor time of the servers for each image answered by any model: the cost to watch.",
            "s",
            f"sum({rate('process_cpu_seconds_total', SERVER)}) / sum("
            + rate(IMAGES, f'{SERVER}, outcome="answered"')
            + ")",
        ),
        stat(
            "Alerts",
            "Rules of deploy/prometheus/alerts.yml that fire now.",
            "none",
            'count(ALERTS{alertname=~"Retinue.*", alertstate="firing"}) or vector(0)',
            red=1,
        ),
    ]


def traffic() -> list[Json]:
    """What is asked, and what becomes of it."""
    errors = rate(REQUESTS, f'{MODEL}, code!="OK"')
    return [
        chart(
            "Requests by method and model",
            "Calls a second. Calls for a model that is not served have no model.",
            "reqps",
            target(f"sum by (method, model) ({rate(REQUESTS)})", "{{method}} {{model}}"),
        ),
        chart(
            "Errors by code and method",
            "Calls a second that ended in a gRPC status other than OK.",
            "reqps",
            target(f"sum by (code, method) ({errors})", "{{code}} {{method}}"),
        ),
        chart(
            "Images by model and outcome",
            "Images a second. An image fails alone: the others of its request are answered.",
            "suffix: images/s",
            target(f"sum by (model, outcome) ({rate(IMAGES)})", "{{model}} {{outcome}}"),
        ),
    ]


def latency() -> list[Json]:
    """How long answers take, and in which stage the time goes."""
    charts = [
        chart(
            "Request latency",
            "From a call's arrival in the server to its answer, answered calls only.",
            "s",
            *percentiles(SECONDS, OK),
        ),
        chart(
            "Request latency by method and model, p95",
            "95 of 100 answered calls were faster.",
            "s",
            target(quantile(0.95, SECONDS, "method, model", OK), "{{method}} {{model}}"),
        ),
        heatmap("Request latency, all", "How many calls took how long, answered or not.", "s", SECONDS),
    ]
    for share in PERCENTILES:
        charts.append(
            chart(
                f"Stages, p{round(share * 100)}",
                "Of an image: decode, queue, inference (of the batch it ran in), postprocess. Total is of a "
                "whole request, which may hold several images.",
                "s",
                target(quantile(share, STAGE_SECONDS, "stage"), "{{stage}}"),
                target(quantile(share, SECONDS, selector=OK), "total"),
            )
        )
    return charts


def batching() -> list[Json]:
    """How well the engine is filled."""
    return [
        chart(
            "Batch size by model",
            "Images that ran together, on average. 1 is right under light load: a lone request never waits.",
            "none",
            target(
                f"sum by (model) ({rate(f'{BATCH_SIZE}_sum')}) "
                f"/ sum by (model) ({rate(f'{BATCH_SIZE}_count')})",
                "{{model}}",
            ),
        ),
        heatmap("Batch sizes", "How many batches of which size ran.", "none", BATCH_SIZE),
        chart(
            "Queue by model",
            "Images that wait for the engine, of those that may. What does not fit is refused.",
            "percentunit",
            target(
                f"max by (model) (retinue_queue_images{{{MODEL}}} / retinue_queue_capacity_images{{{MODEL}}})",
                "{{model}}",
            ),
        ),
    ]


def inventory() -> list[Json]:
    """What is served, by what."""
    return [
        table(
            "Models",
            "What is served, and what runs it. Fallback: not the best provider that is installed.",
            f"retinue_model_info{{{MODEL}}}",
            ["instance", "model", "version", "task", "precision", "provider", "fallback"],
            {"model": ("This model", _MODEL_PAGE)},
            w=16,
            h=7,
        ),
        table(
            "Servers",
            "Versions of each server.",
            f"retinue_build_info{{{SERVER}}}",
            ["instance", "version", "onnxruntime", "python"],
            w=8,
            h=7,
        ),
    ]


def dashboard() -> Json:
    """The whole dashboard."""
    return page(
        "retinue",
        "Retinue",
        "Requests, errors, latency by stage, batches and queues of Retinue servers.",
        [
            ("Now", overview()),
            ("Traffic", traffic()),
            ("Latency", latency()),
            ("Batches and queues", batching()),
            ("What is served", inventory()),
        ],
    )

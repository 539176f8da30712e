"""The dashboard of one model: its latency by stage, its batches and queue, its health, and its versions."""

from page import dashboard as page
from panels import (
    BATCH_SIZE,
    FAULTS,
    IMAGES,
    MODEL,
    OK,
    PERCENTILES,
    RECEIVED,
    REQUESTS,
    SECONDS,
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

_COPIES = "retinue_shadow_images_total"
_AGREEMENT = "retinue_shadow_agreement"
_PAIR = "version, candidate"


def now() -> list[Json]:
    """The figures to look at first."""
    return [
        stat("Requests", "Calls answered in a second.", "reqps", f"sum({rate(REQUESTS)})"),
        stat(
            "Images",
            "Images answered in a second.",
            "suffix: images/s",
            "sum(" + rate(IMAGES, f'{MODEL}, outcome="answered"') + ")",
        ),
        stat(
            "Failing",
            "Share of calls that ended in a server's error, were refused for load, or were too late.",
            "percentunit",
            f"(sum({rate(REQUESTS, FAULTS)}) or vector(0)) / sum({rate(REQUESTS)})",
            orange=0.001,
            red=0.01,
        ),
        stat("p50", "Half of the answered calls were faster.", "s", quantile(0.5, SECONDS, selector=OK)),
        stat(
            "p99",
            "99 of 100 answered calls were faster.",
            "s",
            quantile(0.99, SECONDS, selector=OK),
            orange=0.5,
            red=1,
        ),
        stat(
            "Queue",
            "The share of the queue that is taken now.",
            "percentunit",
            f"max(retinue_queue_images{{{MODEL}}} / retinue_queue_capacity_images{{{MODEL}}})",
            orange=0.25,
            red=0.9,
        ),
        stat(
            "Batch size",
            "Images that ran together, on average.",
            "none",
            f"sum({rate(f'{BATCH_SIZE}_sum')}) / sum({rate(f'{BATCH_SIZE}_count')})",
        ),
        stat(
            "Memory",
            "What its versions take at most, on all servers.",
            "bytes",
            f"sum(retinue_model_memory_bytes{{{MODEL}}})",
        ),
    ]


def traffic() -> list[Json]:
    """What is asked of it, and what becomes of it."""
    return [
        chart(
            "Requests by method and code",
            "Calls a second, by how they ended.",
            "reqps",
            target(f"sum by (method, code) ({rate(REQUESTS)})", "{{method}} {{code}}"),
        ),
        chart(
            "Requests by version",
            "Calls a second. A split of a serving policy shows here.",
            "reqps",
            target(f"sum by (model, version) ({rate(REQUESTS)})", "version {{version}}"),
        ),
        chart(
            "Images by outcome",
            "Images a second. Answered, failed, refused before they were run, or not wanted any more.",
            "suffix: images/s",
            target(f"sum by (model, outcome) ({rate(IMAGES)})", "{{outcome}}"),
        ),
    ]


def latency() -> list[Json]:
    """How long it takes, and in which stage the time goes."""
    return [
        chart(
            "Request latency",
            "From a call's arrival in the server to its answer, answered calls only.",
            "s",
            *percentiles(SECONDS, OK),
        ),
        chart(
            "Request latency by version, p95",
            "95 of 100 answered calls were faster.",
            "s",
            target(quantile(0.95, SECONDS, "model, version", OK), "version {{version}}"),
        ),
        heatmap("Request latency, all", "How many calls took how long, answered or not.", "s", SECONDS),
        *(
            chart(
                f"Stages, p{round(share * 100)}",
                "Of an image: decode, queue, inference (of the batch it ran in), postprocess.",
                "s",
                target(quantile(share, STAGE_SECONDS, "model, stage"), "{{stage}}"),
            )
            for share in PERCENTILES
        ),
    ]


def batching() -> list[Json]:
    """What waits for it, and what runs together."""
    return [
        chart(
            "In the server by priority",
            "Images that were received and have no outcome yet: those that wait, and those that run.",
            "none",
            target(
                f"sum by (model, priority) ({RECEIVED}{{{MODEL}}}) "
                f"- sum by (model, priority) ({IMAGES}{{{MODEL}}})",
                "{{priority}}",
            ),
        ),
        chart(
            "Queue",
            "Images that wait for the engine, and how many may.",
            "none",
            target(f"sum by (model, version) (retinue_queue_images{{{MODEL}}})", "version {{version}}"),
            target(f"max by (model) (retinue_queue_capacity_images{{{MODEL}}})", "capacity"),
        ),
        heatmap("Batch sizes", "How many batches of which size ran.", "none", BATCH_SIZE),
    ]


def health() -> list[Json]:
    """Whether it takes requests, and what hangs or is lost where it fails."""
    return [
        chart(
            "Ready",
            "1 where a version takes requests on all servers, 0 where one of them is opening it anew.",
            "none",
            target(f"min by (model, version) (retinue_model_ready{{{MODEL}}})", "version {{version}}"),
            w=6,
        ),
        chart(
            "Hung batches",
            "Batches a minute that were stopped since they took too long. The log has each as batch_hung.",
            "none",
            target(
                f"60 * sum by (model, version) ({rate('retinue_hung_batches_total')})", "version {{version}}"
            ),
            w=6,
        ),
        chart(
            "Opened anew",
            "Attempts a minute to open it anew, by outcome. The log has those that failed as model_not_rebuilt.",
            "none",
            target(
                f"60 * sum by (model, version, outcome) ({rate('retinue_model_rebuilds_total')})",
                "version {{version}} {{outcome}}",
            ),
            w=6,
        ),
        chart(
            "Lost threads",
            "Threads in batches that do not stop. With three of them a server gives the model up.",
            "none",
            target(f"sum by (model, version) (retinue_lost_threads{{{MODEL}}})", "version {{version}}"),
            w=6,
        ),
    ]


def versions() -> list[Json]:
    """Its versions, and how far candidates agree."""
    mean = (
        f"sum by (model, {_PAIR}) ({rate(f'{_AGREEMENT}_sum')}) "
        f"/ sum by (model, {_PAIR}) ({rate(f'{_AGREEMENT}_count')})"
    )
    return [
        chart(
            "Candidates: agreement",
            "How far a candidate's answers agree with those that were given, on average. Empty without a shadow.",
            "percentunit",
            target(mean, "{{candidate}} with {{version}}"),
        ),
        chart(
            "Candidates: copies",
            "Copies a second: compared, dropped for want of room, or failed at the candidate.",
            "suffix: images/s",
            target(
                f"sum by (model, candidate, outcome) ({rate(_COPIES)})",
                "{{outcome}} at version {{candidate}}",
            ),
        ),
        chart(
            "Memory by part",
            "What it takes at most: weights, ONNX Runtime's arena (on a GPU: of the device), and buffers.",
            "bytes",
            target(
                f"sum by (model, version, part) (retinue_model_memory_bytes{{{MODEL}}})",
                "version {{version}} {{part}}",
            ),
            stack=True,
        ),
        table(
            "Versions",
            "What is served, and what runs it.",
            f"retinue_model_info{{{MODEL}}}",
            ["instance", "model", "version", "task", "precision", "provider", "fallback"],
            w=24,
            h=7,
        ),
    ]


def dashboard() -> Json:
    """The whole dashboard."""
    return page(
        "retinue-model",
        "Retinue: a model",
        "One model: latency by stage, batches, queue, health, versions and their candidates.",
        [
            ("Now", now()),
            ("Traffic", traffic()),
            ("Latency", latency()),
            ("Batches and queue", batching()),
            ("Health", health()),
            ("Versions", versions()),
        ],
        of_one_model=True,
    )

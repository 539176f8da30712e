#!/usr/bin/env python3
"""Writes the Grafana dashboard: a row of panels here is a few lines instead of a few hundred.

Usage: make_dashboard.py [OUT]    OUT is dashboards/retinue.json; a test checks that it is what this writes.
"""

import json
import sys
from pathlib import Path

from panels import (
    DATASOURCE,
    MODEL,
    SERVER,
    Json,
    chart,
    heatmap,
    lay_out,
    quantile,
    rate,
    stat,
    table,
    target,
    variable,
)

_OUT = Path(__file__).parent / "dashboards" / "retinue.json"

_OK = f'{MODEL}, code="OK"'
# Codes that are the server's fault or overload; the others are the caller's.
_FAULTS = f'{MODEL}, code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DATA_LOSS|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED"'
_REQUESTS = "retinue_requests_total"
_SECONDS = "retinue_request_duration_seconds"
_STAGE_SECONDS = "retinue_stage_duration_seconds"
_BATCH_SIZE = "retinue_batch_size"
_PERCENTILES = (0.5, 0.95, 0.99)


def overview() -> list[Json]:
    """The figures to look at first."""
    return [
        stat("Servers ready", "Servers that take requests.", "none", f"sum(retinue_ready{{{SERVER}}})"),
        stat("Requests", "Calls answered in a second.", "reqps", f"sum({rate(_REQUESTS)})"),
        stat(
            "Images",
            "Images answered in a second.",
            "suffix: images/s",
            "sum(" + rate("retinue_images_total", f'{MODEL}, outcome="answered"') + ")",
        ),
        stat(
            "Failing",
            "Share of calls that ended in a server's error, were refused for load, or were too late. "
            "Callers' own mistakes are not in it.",
            "percentunit",
            f"(sum({rate(_REQUESTS, _FAULTS)}) or vector(0)) / sum({rate(_REQUESTS)})",
            orange=0.001,
            red=0.01,
        ),
        stat(
            "p99",
            "99 of 100 answered calls were faster.",
            "s",
            quantile(0.99, _SECONDS, selector=_OK),
            orange=0.5,
            red=1,
        ),
        stat(
            "Waiting",
            "Images in the queues of the chosen models now.",
            "none",
            f"sum(retinue_queue_images{{{MODEL}}})",
            orange=256,
            red=1024,
        ),
        stat(
            "CPU an image",
            "Processor time of the servers for each image answered by any model: the cost to watch.",
            "s",
            f"sum({rate('process_cpu_seconds_total', SERVER)}) / sum("
            + rate("retinue_images_total", f'{SERVER}, outcome="answered"')
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
    errors = rate(_REQUESTS, f'{MODEL}, code!="OK"')
    return [
        chart(
            "Requests by method and model",
            "Calls a second. Calls for a model that is not served have no model.",
            "reqps",
            target(f"sum by (method, model) ({rate(_REQUESTS)})", "{{method}} {{model}}"),
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
            target(f"sum by (model, outcome) ({rate('retinue_images_total')})", "{{model}} {{outcome}}"),
        ),
    ]


def latency() -> list[Json]:
    """How long answers take, and in which stage the time goes."""
    charts = [
        chart(
            "Request latency",
            "From a call's arrival in the server to its answer, answered calls only.",
            "s",
            *(
                target(quantile(share, _SECONDS, selector=_OK), f"p{round(share * 100)}")
                for share in _PERCENTILES
            ),
        ),
        chart(
            "Request latency by method and model, p95",
            "95 of 100 answered calls were faster.",
            "s",
            target(quantile(0.95, _SECONDS, "method, model", _OK), "{{method}} {{model}}"),
        ),
        heatmap("Request latency, all", "How many calls took how long, answered or not.", "s", _SECONDS),
    ]
    for share in _PERCENTILES:
        charts.append(
            chart(
                f"Stages, p{round(share * 100)}",
                "Of an image: decode, queue, inference (of the batch it ran in), postprocess. Total is of a "
                "whole request, which may hold several images.",
                "s",
                target(quantile(share, _STAGE_SECONDS, "stage"), "{{stage}}"),
                target(quantile(share, _SECONDS, selector=_OK), "total"),
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
                f"sum by (model) ({rate(f'{_BATCH_SIZE}_sum')}) "
                f"/ sum by (model) ({rate(f'{_BATCH_SIZE}_count')})",
                "{{model}}",
            ),
        ),
        heatmap("Batch sizes", "How many batches of which size ran.", "none", _BATCH_SIZE),
        chart(
            "Queue by model",
            "Images that wait for the engine. Calls are refused from --max-queue-images.",
            "none",
            target(f"sum by (model) (retinue_queue_images{{{MODEL}}})", "{{model}}"),
        ),
    ]


def resources() -> list[Json]:
    """What the servers use."""
    return [
        chart(
            "Process memory",
            "Resident bytes of each server.",
            "bytes",
            target(f"process_resident_memory_bytes{{{SERVER}}}", "{{instance}}"),
        ),
        chart(
            "Memory by model",
            "What each takes at most: weights, ONNX Runtime's arena (on a GPU: of the device), and buffers.",
            "bytes",
            target(
                f"sum by (model, version) (retinue_model_memory_bytes{{{MODEL}}})",
                "{{model}} version {{version}}",
            ),
            stack=True,
        ),
        chart(
            "CPU",
            "Cores in use by each server.",
            "suffix: cores",
            target(f"sum by (instance) ({rate('process_cpu_seconds_total', SERVER)})", "{{instance}}"),
        ),
        chart(
            "GPU memory used",
            "Device memory in use, by all processes. Empty where there is no GPU.",
            "bytes",
            target(f"retinue_gpu_memory_used_bytes{{{SERVER}}}", "{{instance}} GPU {{gpu}}"),
        ),
        chart(
            "GPU memory used of total",
            "Share of the device's memory in use. Empty where there is no GPU.",
            "percentunit",
            target(
                f"retinue_gpu_memory_used_bytes{{{SERVER}}} / retinue_gpu_memory_total_bytes{{{SERVER}}}",
                "{{instance}} GPU {{gpu}}",
            ),
        ),
        chart(
            "Open files",
            "File descriptors of each server: connections, mostly.",
            "none",
            target(f"process_open_fds{{{SERVER}}}", "{{instance}}"),
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
    return {
        "uid": "retinue",
        "title": "Retinue",
        "description": "Requests, errors, latency by stage, batches, queues and memory of Retinue servers.",
        "tags": ["retinue"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                },
                variable("instance", "Server", "retinue_build_info"),
                # All is any value and none: calls for a model that is not served have none.
                variable("model", "Model", "retinue_model_info", allValue=".*"),
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Server started",
                    "enable": True,
                    "iconColor": "blue",
                    "datasource": DATASOURCE,
                    "expr": f"process_start_time_seconds{{{SERVER}}} * 1000",
                    "useValueForTime": True,
                    "titleFormat": "{{instance}} started",
                    "step": "60s",
                }
            ]
        },
        "panels": lay_out(
            [
                ("Now", overview()),
                ("Traffic", traffic()),
                ("Latency", latency()),
                ("Batches and queues", batching()),
                ("Memory and processors", resources()),
                ("What is served", inventory()),
            ]
        ),
    }


def render() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    (Path(sys.argv[1]) if sys.argv[1:] else _OUT).write_text(render())

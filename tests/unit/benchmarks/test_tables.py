"""Tables are Markdown: as many cells in each row as in the head, and the measured figures in them."""

import re
from typing import Any

import pytest
from benchmarks import client, comparison, local, matrix, models, overload, roofline, tiny

ROW = {
    "images_per_second": 1234.5,
    "cpu_seconds_per_image": 0.01049,
    "p50_ms": 7.89,
    "p99_ms": 12.34,
    "client_share": 0.0123,
    "rate_ratio": 0.876,
    "cpu_ratio": 1.109,
    "latency_ratio": 1.317,
    "cpu_over_echo": 2.5,
}
CEILING = {
    "images_per_second": 1402.0,
    "cpu_seconds_per_image": 0.00946,
    "lone_ms": 5.99,
    "setting": "SETTING",
    "lone_setting": "LONE SETTING",
}
RESULTS: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "roofline": (
        roofline,
        {
            "workloads": [
                {
                    "workload": "W",
                    "best": {"images_per_second": 1402.0, "cpu_seconds_per_image": 0.00946},
                    "setting": "SETTING",
                    "lone_ms": 5.99,
                    "lone_setting": "LONE SETTING",
                }
            ]
        },
        ["| W | 1,402 | 9.46 | SETTING | 5.99 | LONE SETTING |"],
    ),
    "models": (
        models,
        {
            "models": [
                {
                    "workload": "W",
                    "roofline": CEILING,
                    "served": [{"callers": 1, **ROW}, {"callers": 8, **ROW}],
                }
            ]
        },
        [
            "| | 8 | 1,234 | 0.88 | 10.49 | 1.11 | 7.9 | 12.3 | 1.2 % |",
            "| W | 7.89 | 5.99 | 1.32 | LONE SETTING |",
        ],
    ),
    "matrix": (
        matrix,
        {"cells": [{"workload": "W", "callers": 16, "images": 32, **ROW}]},
        ["| W | 16 | 32 | 1,234 | 0.88 | 10.49 | 1.11 | 7.9 | 12.3 | 1.2 % |"],
    ),
    "tiny": (
        tiny,
        {
            "workload": "W",
            "callers": 16,
            "roofline": CEILING,
            "echo": {"calls_per_second": 5000.0, "cpu_seconds_per_call": 0.00017, "client_share": 0.06},
            "served": [{"images": 64, **ROW}],
        },
        ["| Retinue, 64 a request | 19 | 1,234 | 0.88 | 671360 | 2.50 | 10490 | 1.2 % |"],
    ),
    "client": (
        client,
        {
            "goal_us": 150,
            "rows": [
                {
                    "client": "Client",
                    "bare_us": 241.2,
                    "client_us": 361.7,
                    "overhead_us": 120.4,
                    "cpu_overhead_us": 118.8,
                },
                {
                    "client": "AsyncClient",
                    "bare_us": 300.0,
                    "client_us": 460.0,
                    "overhead_us": 160.0,
                    "cpu_overhead_us": 161.0,
                },
            ],
        },
        ["| `Client.classify` | 241 | 362 | 120 | 119 | within 150 |", "| 160 | 161 | over 150 |"],
    ),
    "overload": (
        overload,
        {
            "workload": "W",
            "timeout_ms": 1000,
            "capacity_per_second": 190.0,
            "capacity_before_and_after": [188.0, 192.0],
            "loads": [
                {
                    "load": 10.0,
                    "offered_per_second": 1900.0,
                    "goodput_per_second": 171.0,
                    "goodput_ratio": 0.9,
                    "p50_ms": 800.0,
                    "p99_ms": 990.0,
                    "refused_share": 0.9,
                    "refusal_p50_ms": 3.0,
                    "refusal_p99_ms": 40.0,
                    "statuses": {"RESOURCE_EXHAUSTED": 0.9, "OK": 0.09, "DEADLINE_EXCEEDED": 0.01},
                    "late_p99_ms": 0.5,
                    "client_share": 0.1,
                }
            ],
        },
        [
            "| 10 | 1900 | 171 | 0.90 | 800.0 | 990.0 | 90.0 % | 3.0 | 40.0 | 1.0 % DEADLINE_EXCEEDED | 0.5 | 10.0 % |",
            "(188 before, 192 after); each request has 1 s.",
        ],
    ),
    "local": (
        local,
        {
            "workload": "W",
            "roofline": "1 process",
            "roofline_per_second": 200.0,
            "images_per_second": 195.0,
            "ratio": 0.975,
        },
        ["| roofline | 200 | |", "| `retinue score --local` | 195 | 0.97 |"],
    ),
    "comparison": (
        comparison,
        {
            "workload": "W",
            "roofline": CEILING,
            "servers": [
                {
                    "server": "mosec 0.9.8",
                    "memory_bytes": 339e6,
                    "served": [{"callers": callers, **ROW} for callers in (1, 8, 32)],
                }
            ],
        },
        ["| mosec 0.9.8 | 0.88 | 0.88 | 0.88 | 7.9 | 12 | 1.11 | 339 | 1.2 % |", "p99 ms at 32"],
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_table_shows_what_was_measured(name: str) -> None:
    scenario, result, expected = RESULTS[name]

    table = scenario.table(result)

    for text in expected:
        assert text in table


@pytest.mark.parametrize("name", RESULTS)
def test_every_row_has_the_cells_of_its_head(name: str) -> None:
    scenario, result, _ = RESULTS[name]

    tables = re.findall(r"(?:^\|.*\n?)+", scenario.table(result), re.MULTILINE)

    assert tables
    for table in tables:
        head, rule, *rows = table.strip().splitlines()
        assert re.fullmatch(r"\|(-+:?\|)+", rule)
        assert rows
        assert {line.count("|") for line in (rule, *rows)} == {head.count("|")}

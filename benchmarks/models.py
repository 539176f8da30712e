"""Three models under a closed loop, one image a request, each beside the roofline of the same minute."""

from typing import Any

from benchmarks import ratios, roofline, served, workloads
from benchmarks.ratios import Row

CALLERS = (1, 8, 32)


def run(*, quick: bool) -> dict[str, Any]:
    """Measures roofline and server in turn, round by round, and takes the medians of the rounds."""
    rounds, seconds = (1, 1.0) if quick else (3, 5.0)
    rooflines = [
        roofline.of(workload, quick=quick)
        for workload in (workloads.mobilenet(), workloads.resnet(), workloads.fashion())
    ]
    ceilings: list[list[Row]] = [[] for _ in rooflines]
    rows: list[dict[int, list[Row]]] = [{callers: [] for callers in CALLERS} for _ in rooflines]
    with served.running() as server:
        for _ in range(rounds):
            for line, ceiling_rows, served_rows in zip(rooflines, ceilings, rows, strict=True):
                ceiling = line.measure(seconds)
                lone_ms = line.lone_ms(seconds / 2)
                ceiling_rows.append(
                    {
                        "images_per_second": ceiling.images_per_second,
                        "cpu_seconds_per_image": ceiling.cpu_seconds_per_image,
                        "lone_ms": lone_ms,
                    }
                )
                for callers in CALLERS:
                    row = ratios.beside(server.measure(line.workload, callers, seconds), ceiling)
                    served_rows[callers].append({**row, "latency_ratio": row["p50_ms"] / lone_ms})
    return {
        "rounds": rounds,
        "seconds": seconds,
        "models": [
            {
                "workload": line.workload.title,
                "roofline": {
                    **ratios.medians(ceiling_rows),
                    "setting": str(line.best),
                    "lone_setting": str(line.lone),
                },
                "served": [
                    {"callers": callers, **ratios.medians(measured)}
                    for callers, measured in served_rows.items()
                ],
            }
            for line, ceiling_rows, served_rows in zip(rooflines, ceilings, rows, strict=True)
        ],
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "| | callers | images/s | of the roofline | CPU ms/image | over the roofline's | p50 ms | p99 ms "
        "| client's share of the CPU |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lone = []
    for model in result["models"]:
        ceiling = model["roofline"]
        lines.append(
            f"| **{model['workload']}**, roofline | | {ceiling['images_per_second']:,.0f} | | "
            f"{1000 * ceiling['cpu_seconds_per_image']:.2f} | | | | |"
        )
        lines += [
            f"| | {row['callers']} | {row['images_per_second']:,.0f} | {row['rate_ratio']:.2f} "
            f"| {1000 * row['cpu_seconds_per_image']:.2f} | {row['cpu_ratio']:.2f} "
            f"| {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {100 * row['client_share']:.1f} % |"
            for row in model["served"]
        ]
        alone = model["served"][0]
        lone.append(
            f"| {model['workload']} | {alone['p50_ms']:.2f} | {ceiling['lone_ms']:.2f} "
            f"| {alone['latency_ratio']:.2f} | {ceiling['lone_setting']} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            "| one request alone | median ms | decode, resize and run, ms | ratio | soonest with |",
            "|---|---:|---:|---:|---|",
            *lone,
        ]
    )

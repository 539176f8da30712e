"""Retinue beside other servers that do the same work: MobileNetV2 from JPEG to the five most probable classes.

All of them run at once and idle while one is driven, and take turns within each round, so that what else the machine
does hits them alike.
"""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from retinue.v1 import vision_service_pb2 as pb

from benchmarks import h2load, peer_servers, ratios, roofline, served, workloads
from benchmarks.peer_servers import PEERS, RunningPeer
from benchmarks.ratios import Row
from benchmarks.served import RetinueServer, Served

CALLERS = (1, 8, 32)
_RETINUE = "Retinue"
_SCORE_TOLERANCE = 0.01

_Servers = dict[str, RetinueServer | RunningPeer]


def run(*, quick: bool) -> dict[str, Any]:
    """Measures roofline and servers in turn, round by round, and takes the medians of the rounds.

    Raises:
        RuntimeError: A server answers something else than Retinue.
    """
    rounds, seconds = (1, 1.0) if quick else (3, 3.0)
    workload = workloads.mobilenet()
    assert isinstance(workload.image, bytes)
    line = roofline.of(workload, quick=quick)
    rows: dict[str, dict[int, list[Row]]] = {}
    memory: dict[str, int] = {}
    ceilings: list[Row] = []
    with ExitStack() as stack:
        models = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shutil.copytree(workload.bundle.parent, models / workload.model)
        retinue = stack.enter_context(served.running(models=models))
        servers: _Servers = {_RETINUE: retinue}
        expected = retinue.check(workload.request())
        for peer in PEERS:
            started = stack.enter_context(peer_servers.running(peer, workload.bundle, workload.image))
            _compare(started, expected)
            servers[f"{peer.title} {peer_servers.version(peer)}"] = started
        for _ in range(rounds):
            ceiling = line.measure(seconds)
            lone_ms = line.lone_ms(seconds / 2)
            ceilings.append({"images_per_second": ceiling.images_per_second, "lone_ms": lone_ms})
            for callers in CALLERS:
                for title, server in servers.items():
                    row = ratios.beside(_measure(server, callers, seconds), ceiling)
                    rows.setdefault(title, {}).setdefault(callers, []).append(row)
        for title, server in servers.items():
            memory[title] = server.tree.memory_bytes()
    return {
        "workload": workload.title,
        "rounds": rounds,
        "seconds": seconds,
        "roofline": {**ratios.medians(ceilings), "setting": str(line.best)},
        "servers": [
            {
                "server": title,
                "memory_bytes": memory[title],
                "served": [
                    {"callers": callers, **ratios.medians(measured)}
                    for callers, measured in by_callers.items()
                ],
            }
            for title, by_callers in rows.items()
        ],
    }


def _compare(peer: RunningPeer, expected: pb.ClassifyResponse) -> None:
    """Refuses a peer that finds other classes: it would not do the same work."""
    found = {one["label"]: one["score"] for one in peer_servers.answer(peer.call)}
    wanted = {one.label: one.score for one in expected.outcomes[0].result.classes}
    if found.keys() != wanted.keys() or any(
        abs(found[label] - score) > _SCORE_TOLERANCE for label, score in wanted.items()
    ):
        raise RuntimeError(f"{peer.peer.title} answers {found}, Retinue {wanted}.")


def _measure(server: RetinueServer | RunningPeer, callers: int, seconds: float) -> Served:
    if isinstance(server, RetinueServer):
        return server.measure(workloads.mobilenet(), callers, seconds)
    return Served.of(h2load.drive(server.call, server.tree, callers, seconds))


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    ceiling = result["roofline"]
    first = result["servers"][0]["served"]
    ratio_columns = "".join(f" of the roofline at {row['callers']} |" for row in first)
    lines = [
        f"{result['workload']}, one image a request. Roofline: {ceiling['images_per_second']:.0f} images/s, one image "
        f"alone in {ceiling['lone_ms']:.1f} ms.",
        "",
        "| server |" + ratio_columns + " one request alone, p50 ms | p99 ms at "
        f"{first[-1]['callers']} | CPU over the roofline's at {first[1]['callers']} | memory MB "
        "| client's share of the CPU, at most |",
        "|---" + "|---:" * (len(first) + 5) + "|",
    ]
    for server in result["servers"]:
        rows = server["served"]
        cells = [
            server["server"],
            *(f"{row['rate_ratio']:.2f}" for row in rows),
            f"{rows[0]['p50_ms']:.1f}",
            f"{rows[-1]['p99_ms']:.0f}",
            f"{rows[1]['cpu_ratio']:.2f}",
            f"{server['memory_bytes'] / 1e6:.0f}",
            f"{100 * max(row['client_share'] for row in rows):.1f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

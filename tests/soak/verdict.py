"""What a soak has shown, line by line."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.soak.node import Footprint, Life, Node
from tests.soak.traffic import Tally

_MIB = 1 << 20
_MOST_GROWTH = 0.2
# What allocators keep, and a model more that is being swapped.
_FREE_BYTES = 48 * _MIB
_FREE_DESCRIPTORS = 24
_FREE_THREADS = 24
# Front-ends tell what they have counted when metrics are read, here once a second: calls of one method that a front-end
# has answered meanwhile.
_LOST_BY_FRONT_END = 30
# With what is expected of which faults.
_EXPECTED = {
    ("batch_failed", "failing-classifier/1"),
    ("call_with_failures", "failing-classifier"),
    ("model_refused", "broken"),
    # Taken away while it was loaded.
    ("model_refused", "colours"),
    ("worker_died", None),
}


@dataclass(frozen=True)
class Line:
    """One thing that must hold.

    Attributes:
        what: It.
        found: In figures.
        holds: Whether it does.
    """

    what: str
    found: str
    holds: bool


def of_traffic(tally: Tally) -> Iterator[Line]:
    """Whether all that had to be answered was."""
    asked = sum(tally.good.values())
    yield Line(
        "good requests answered, each rightly and once",
        f"{asked - len(tally.failed):,} of {asked:,}",
        not tally.failed and asked > 0,
    )
    yield Line("kinds of traffic", ", ".join(f"{n:,} {kind}" for kind, n in tally.good.items()), True)
    yield Line("answered elsewhere: in flight on what was killed", f"{tally.excused:,}", True)
    yield Line("answered elsewhere: turned away by a server that was going", f"{tally.moved:,}", True)


def of_life(
    node: Node, life: Life, counted: Mapping[tuple[str, str], float], end: Footprint
) -> Iterator[Line]:
    """Whether a server's counters, memory, files and threads are as they should at the end of a life."""
    name = f"{node.name}: "
    own, theirs = _total(life.answered), _total(counted)
    lost = _LOST_BY_FRONT_END * life.front_ends_killed
    for method, count in sorted(own.items()):
        there = theirs[method]
        yield Line(
            f"{name}calls of {method} with OK or INTERNAL, counted by it and by callers",
            f"{there:,.0f} and {count:,}",
            count - lost <= there <= count + life.abandoned,
        )
    if life.warm is not None and life.idle is not None:
        most = life.warm.private_bytes * (1 + _MOST_GROWTH) + _FREE_BYTES
        yield Line(
            f"{name}memory at the end, and after the warm-up",
            f"{end.private_bytes / _MIB:.0f} and {life.warm.private_bytes / _MIB:.0f} MiB",
            end.private_bytes <= most,
        )
        yield Line(
            f"{name}open files at the end, and when it was ready",
            f"{end.descriptors} and {life.idle.descriptors}",
            end.descriptors <= life.idle.descriptors + _FREE_DESCRIPTORS,
        )
        yield Line(
            f"{name}threads at the end, and when it was ready",
            f"{end.threads} and {life.idle.threads}",
            end.threads <= life.idle.threads + _FREE_THREADS,
        )


def of_log(node: Node) -> Iterator[Line]:
    """Whether nothing was logged that no fault explains."""
    unexpected: Counter[str] = Counter()
    for life in node.lives:
        for event in life.server.events:
            if event["level"] not in ("error", "critical") and "exception" not in event:
                continue
            told = event["event"], event.get("model")
            if told not in _EXPECTED or (told[0] == "worker_died" and not life.front_ends_killed):
                unexpected[str(event)[:600]] += 1
        for line in life.server.stderr_lines:
            if not line.startswith("{"):
                unexpected[line[:300]] += 1
    yield Line(
        f"{node.name}: errors in the log that no fault explains",
        "; ".join(f"{count} × {what}" for what, count in unexpected.most_common(5)) or "none",
        not unexpected,
    )


def table(lines: list[Line]) -> str:
    """In Markdown."""
    rows = [f"| {line.what} | {line.found} | {'holds' if line.holds else '**broken**'} |" for line in lines]
    return "\n".join(["| what | found | verdict |", "|---|---|---|", *rows])


def _total(counts: Mapping[tuple[str, str], float]) -> Counter[str]:
    found: Counter[str] = Counter()
    for (method, code), count in counts.items():
        if method in ("Classify", "Detect", "Segment", "ModelInfer") and code in (
            "OK",
            "INVALID_ARGUMENT",
            "INTERNAL",
        ):
            found[method] += count
    return found

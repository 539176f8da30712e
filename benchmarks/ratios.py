"""What was measured beside its roofline: a ratio of the same minute is a result, an absolute figure is not."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median

from benchmarks.ceiling import Measurement
from benchmarks.served import Served

Row = dict[str, float]


def beside(served: Served, ceiling: Measurement) -> Row:
    """What was served, and its ratios to the roofline.

    What the client takes of the machine is deducted from the roofline that the rate is compared with: those cores'
    time was not there for the server.
    """
    left = ceiling.images_per_second * (1 - served.client_share)
    return {
        **asdict(served),
        "rate_ratio": served.images_per_second / left,
        "cpu_ratio": served.cpu_seconds_per_image / ceiling.cpu_seconds_per_image,
    }


def medians(rows: Sequence[Mapping[str, float]]) -> Row:
    """Of each value, over the rounds."""
    return {name: median(row[name] for row in rows) for name in rows[0]}

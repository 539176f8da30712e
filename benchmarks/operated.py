"""What TLS with certificates of both sides, tokens and traces cost a server, at images of 50 KB.

h2load shows no certificate, so the load comes from the client library, through `retinue bench`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image
from tests.certificates import Authority
from tests.collector import collecting

from benchmarks import bundles, photos, served
from benchmarks.h2load import LoadError
from benchmarks.served import RetinueServer

_CALLERS = 8
_IMAGE_BYTES = 50_000
# A grey picture of that many pixels, for a network that costs next to nothing.
_SIDE = 224

_PLAIN, _AGAIN, _TLS, _TLS_AND_TOKEN, _TRACED = (
    "nothing of it",
    "nothing of it, a second server",
    "TLS of both sides",
    "TLS of both sides, a token",
    "traces of 1 % of the calls",
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: images of `model`, as a file, or as its pixels."""

    title: str
    model: str
    image: Path
    raw: bool


@dataclass(frozen=True, slots=True)
class Way:
    """How a server is reached: it, and what its callers have in their environment."""

    title: str
    server: RetinueServer
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one round; the last is what the client took, of one core."""

    images_per_second: float
    p50_ms: float
    p99_ms: float
    client_cores: float


def run(*, quick: bool) -> dict[str, Any]:
    """Measures each way in turn, in the other order every second round."""
    rounds, seconds = (1, 1.0) if quick else (9, 4.0)
    rates: dict[tuple[str, str], list[Measured]] = {}
    with tempfile.TemporaryDirectory() as name, _ways(Path(name)) as ways:
        questions = _questions(Path(name))
        for number in range(rounds):
            for question in questions:
                for way in reversed(ways) if number % 2 else ways:
                    rates.setdefault((question.title, way.title), []).append(_measure(way, question, seconds))
    rows = []
    for (question_title, way_title), measured in rates.items():
        plain = rates[question_title, _PLAIN]
        values = [asdict(one) for one in measured]
        pairs = list(zip(measured, plain, strict=True))
        rows.append(
            {
                "question": question_title,
                "way": way_title,
                **{key: median(value[key] for value in values) for key in values[0]},
                "of_plain": median(one.images_per_second / other.images_per_second for one, other in pairs),
            }
        )
    return {"rounds": rounds, "seconds": seconds, "callers": _CALLERS, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "| | | images/s | of those without | p50 ms | p99 ms | client's cores |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['question']} | {row['way']} | {row['images_per_second']:,.0f} | {row['of_plain']:.3f} "
        f"| {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {row['client_cores']:.2f} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def _questions(folder: Path) -> list[Question]:
    photo = min(photos.jpegs(), key=lambda one: abs(len(one) - _IMAGE_BYTES))
    as_file, as_pixels = folder / "photo.jpg", folder / "grey.png"
    as_file.write_bytes(photo)
    Image.fromarray(photos.pixels(_SIDE, grey=True)[:, :, 0]).save(as_pixels)
    return [
        Question(
            f"MobileNetV2, JPEG of {len(photo) / 1000:.0f} kB", bundles.MOBILENET_V2, as_file, raw=False
        ),
        Question(
            f"LeNet-5, {_SIDE}x{_SIDE} grey pixels, {_SIDE**2 / 1000:.0f} kB",
            bundles.LENET_5,
            as_pixels,
            raw=True,
        ),
    ]


@contextmanager
def _ways(folder: Path) -> Iterator[list[Way]]:
    authority = Authority()
    ca = folder / "ca.pem"
    ca.write_bytes(authority.certificate)
    certificate, key = authority.sign().write(folder)
    shown, shown_key = authority.sign("caller").write(folder, "caller")
    tls = ("--tls-certificate", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(ca))
    caller = {
        "RETINUE_TLS_CA": str(ca),
        "RETINUE_CLIENT_CERTIFICATE": str(shown),
        "RETINUE_CLIENT_KEY": str(shown_key),
    }
    tokens = folder / "tokens.toml"
    token = _make_token(tokens)
    with (
        served.running() as plain,
        # By how much two servers that do the same differ.
        served.running() as again,
        served.running(*tls) as encrypted,
        served.running(*tls, "--tokens", str(tokens)) as guarded,
        collecting() as collector,
        served.running("--trace-endpoint", collector.endpoint, "--trace-sample-share", "0.01") as traced,
    ):
        yield [
            Way(_PLAIN, plain, {}),
            Way(_AGAIN, again, {}),
            Way(_TLS, encrypted, caller),
            Way(_TLS_AND_TOKEN, guarded, {**caller, "RETINUE_TOKEN": token}),
            Way(_TRACED, traced, {}),
        ]


def _make_token(file: Path) -> str:
    made = subprocess.run(
        [_program("retinue-server"), "token", "bench"], capture_output=True, text=True, check=True
    )
    file.touch(mode=0o600)
    file.write_text(made.stdout, encoding="utf-8")
    return made.stderr.split()[-1]


def _measure(way: Way, question: Question, seconds: float) -> Measured:
    """Has `retinue bench` ask one server.

    Raises:
        LoadError: A request failed.
    """
    command = [
        *(_program("retinue"), "bench", str(question.image), "--task", "classify", "--model", question.model),
        *("--concurrency", str(_CALLERS), "--seconds", str(seconds), "--warm-up", str(seconds / 4)),
        *("--json", "-", *(["--raw"] if question.raw else [])),
    ]
    environment = {**os.environ, **way.environment, "RETINUE_SERVER": way.server.process.grpc_address}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise LoadError(f"{' '.join(command)} failed:\n{ended.stderr}")
    (row,) = json.loads(ended.stdout)["rows"]
    if row["requests"]["answered"] != row["requests"]["sent"]:
        raise LoadError(f"not all requests were answered: {row['requests']}")
    latency, client = row["latency_ms"], row["client"]
    return Measured(row["images_per_second"], latency["p50"], latency["p99"], client["cpu_share"])


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)

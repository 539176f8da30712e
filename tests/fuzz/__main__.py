"""Fuzzes every target for a while and prints a table; the exit code is 1 where something broke.

    python -m tests.fuzz --seconds 60
    python -m tests.fuzz --targets manifest tokens --seconds 600

What broke a target lies in .work/fuzz/crashes; as a file in tests/fuzz/regressions/TARGET every test run
tries it. What was found interesting lies in .work/fuzz/corpus, where the next run goes on.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS, regressions

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".work" / "fuzz"
# For the imports, which are instrumented, on a machine that has other things to do.
_START_SECONDS = 600


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        name: The target's.
        executions: Inputs that it was given.
        branches: What libFuzzer counts as covered.
        peak_mib: The most memory of the process.
        crash: What broke, in a line; empty where nothing did.
    """

    name: str
    executions: int
    branches: int
    peak_mib: int
    crash: str


def fuzz(target: Target, seconds: int, seed: int) -> Result:
    """Fuzzes one target in a process of its own, until its time is over or it breaks."""
    corpus, crashes = WORK / "corpus" / target.name, WORK / "crashes" / target.name
    for folder in (corpus, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    known = [*target.seeds(), *(path.read_bytes() for path in regressions(target))]
    for number, data in enumerate(known):
        (corpus / f"seed-{number}").write_bytes(data)
    options = {
        "max_total_time": seconds,
        "timeout": target.seconds,
        "rss_limit_mb": target.memory_mib,
        "max_len": max(target.max_bytes, *map(len, known)),
        "artifact_prefix": f"{crashes}/",
        "seed": seed,
        "print_final_stats": 1,
        "verbosity": 1,
    }
    command = [sys.executable, "-m", "tests.fuzz.coverage_run", target.name, str(crashes)]
    command += [f"-{name}={value}" for name, value in options.items()]
    try:
        run = subprocess.run(
            [*command, str(corpus)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + _START_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        (WORK / f"{target.name}.log").write_bytes(late.stderr or b"")
        return Result(target.name, 0, 0, 0, "it never came back, and libFuzzer could not end it")
    (WORK / f"{target.name}.log").write_text(run.stderr + run.stdout)
    return Result(
        target.name,
        _number(r"number_of_executed_units:\s*(\d+)", run.stderr),
        _number(r"cov: (\d+)", run.stderr),
        _number(r"peak_rss_mb:\s*(\d+)", run.stderr),
        _crash(run),
    )


def _number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def _crash(run: "subprocess.CompletedProcess[str]") -> str:
    if not run.returncode:
        return ""
    errors = re.findall(
        r"^(?:=+ Uncaught Python exception: =+\n(.*)|==\d+== ?ERROR: (.*))$", run.stderr, re.M
    )
    said = " ".join(filter(None, errors[-1])) if errors else run.stderr.strip().rpartition("\n")[2]
    return f"{said} (exit code {run.returncode})"


def table(results: Sequence[Result]) -> str:
    """The results in Markdown, with their sum."""
    rows = [
        f"| {one.name} | {one.executions:,} | {one.branches:,} | {one.peak_mib} | {one.crash or 'none'} |"
        for one in results
    ]
    broken = sum(bool(one.crash) for one in results)
    total = f"| **all** | **{sum(one.executions for one in results):,}** | | | **{broken or 'none'}** |"
    head = ["| target | inputs | branches | peak MiB | crashes and hangs |", "|---|---:|---:|---:|---|"]
    return "\n".join([*head, *rows, total])


def main() -> int:
    """Fuzzes what is asked for; 1 where something broke."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("--seed", type=int, default=0, help="where the dice begin; 0 for anywhere")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="targets at once")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="TARGET")
    arguments = parser.parse_args()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        chosen = [TARGETS[name] for name in arguments.targets]
        results = list(pool.map(lambda one: fuzz(one, arguments.seconds, arguments.seed), chosen))
    print(table(results))
    return int(any(one.crash for one in results))


if __name__ == "__main__":
    sys.exit(main())

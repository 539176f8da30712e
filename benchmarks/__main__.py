"""`python -m benchmarks [SCENARIO ...]`: runs the scenarios, prints their tables, writes results/NAME.json."""

import json
import sys
from pathlib import Path

from benchmarks import cuda, cuda_agreement, machine, memory, quantisation, serve, startup

_SCENARIOS = {
    "serve": serve,
    "startup": startup,
    "memory": memory,
    "quantisation": quantisation,
    "cuda": cuda,
    "cuda_agreement": cuda_agreement,
}
_WITH_GPU = {"cuda", "cuda_agreement"}


def main(names: list[str]) -> None:
    """Runs the named scenarios, or all that need no GPU."""
    unknown = [name for name in names if name not in _SCENARIOS]
    if unknown:
        raise SystemExit(f"no scenario {unknown[0]!r}: there are {', '.join(_SCENARIOS)}.")
    facts = machine.facts()
    print(f"{machine.sentence(facts)}\n")
    for name in names or [name for name in _SCENARIOS if name not in _WITH_GPU]:
        scenario = _SCENARIOS[name]
        result = scenario.run()
        path = Path(__file__).parent / "results" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**facts, **result}, indent=2) + "\n", encoding="utf-8")
        print(f"## {name}\n\n{scenario.table(result)}\n", flush=True)


main(sys.argv[1:])

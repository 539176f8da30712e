"""`python -m benchmarks [SCENARIO ...]`: runs the scenarios, prints their tables, writes results/NAME.json."""

import argparse
import json
import time

from benchmarks import machine, pages, scenarios
from benchmarks.h2load import LoadError
from benchmarks.scenarios import SCENARIOS, WITHOUT_GPU

_BUSY = 0.5


def main() -> None:
    """Runs the named scenarios, or all that need no GPU."""
    described = "\n".join(f"  {name:15} {what}" for name, what in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measures Retinue on this machine, which should do nothing else.\n\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", nargs="*", help="which; all that need no GPU where none is named")
    parser.add_argument(
        "--quick", action="store_true", help="only see whether all works: measure shortly and write nothing"
    )
    parser.add_argument(
        "--pages",
        action="store_true",
        help="measure nothing: put the results that there are into the READMEs",
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.scenario if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}: there are {', '.join(SCENARIOS)}.")
    if arguments.pages:
        pages.fill()
        return
    failed = _measure(arguments.scenario or WITHOUT_GPU, quick=arguments.quick)
    if failed:
        parser.exit(1, f"not measured: {', '.join(failed)}\n")


def _measure(names: list[str], *, quick: bool) -> list[str]:
    """Returns those that could not be measured: the others took too long to be lost by them."""
    facts = machine.facts()
    print(f"{machine.sentence(facts)}\n")
    if facts["load_average"] > _BUSY:
        print(
            f"Something else takes {facts['load_average']:.1f} cores: the figures will mean little.\n",
            flush=True,
        )
    failed = []
    for name in names:
        scenario = scenarios.load(name)
        began = time.monotonic()
        try:
            result = scenario.run(quick=quick)
        except LoadError as error:
            print(f"## {name}\n\n{error}\n", flush=True)
            failed.append(name)
            continue
        if not quick:
            path = pages.result_file(name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({**facts, **result}, indent=2) + "\n", encoding="utf-8")
        print(f"## {name} ({time.monotonic() - began:.0f} s)\n\n{scenario.table(result)}\n", flush=True)
    return failed


# Processes that scenarios start import this module, too.
if __name__ == "__main__":
    main()

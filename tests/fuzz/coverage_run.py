"""One target, guided by the branches that inputs take, until its time is over: a process of its own for atheris.

python -m tests.fuzz.coverage_run TARGET CRASHES [options of libFuzzer] CORPUS
"""

import hashlib
import sys
from pathlib import Path

import atheris

# What is imported in here counts its branches.
with atheris.instrument_imports(include=["retinue_server", "python_multipart"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzzes the target that is named first; an input that it does not take is written to the folder of crashes."""
    run, crashes = TARGETS[sys.argv.pop(1)].run, Path(sys.argv.pop(1))

    def kept(data: bytes) -> None:
        try:
            run(data)
        except BaseException:
            # libFuzzer does so, too, unless its alarm rings just then.
            (crashes / f"crash-{hashlib.sha1(data).hexdigest()}").write_bytes(data)
            raise

    atheris.Setup(sys.argv, kept)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

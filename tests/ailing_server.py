"""`retinue-server` whose networks fail as long as a file says so: `python -m tests.ailing_server ...`.

AILING names the file. Its first line is the name of a bundle, or `*` for all; its second is what ONNX Runtime raises
instead of opening or running it. With AILING_GPU, a CPU stands in for a GPU.
"""

import os
from pathlib import Path
from typing import Any

import onnxruntime

_ILLNESS = Path(os.environ["AILING"])
_InferenceSession = onnxruntime.InferenceSession


class AilingSession(_InferenceSession):
    """A session that fails where it is to."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._name = self.get_modelmeta().graph_name
        self._fail_if_ill()

    def run(self, *arguments: Any, **options: Any) -> Any:
        self._fail_if_ill()
        return super().run(*arguments, **options)

    def run_with_iobinding(self, *arguments: Any, **options: Any) -> None:
        self._fail_if_ill()
        super().run_with_iobinding(*arguments, **options)

    def _fail_if_ill(self) -> None:
        if _ILLNESS.exists():
            name, message = _ILLNESS.read_text().splitlines()
            if name in ("*", self._name):
                raise RuntimeError(message)


def main() -> None:
    """Serves."""
    onnxruntime.InferenceSession = AilingSession
    # All of these look the session's class up when they are imported.
    import pytest

    from retinue_server import app, cli
    from tests import gpu_stand_in

    if "AILING_GPU" in os.environ:
        patch = pytest.MonkeyPatch()
        gpu_stand_in.install(patch)
        patch.setattr(app, "chosen_provider", lambda settings: gpu_stand_in.provider())
    cli.main()


if __name__ == "__main__":
    main()

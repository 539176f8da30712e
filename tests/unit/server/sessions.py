"""Sessions of tiny bundles, for tests."""

from pathlib import Path

import numpy as np
from tests.colour_bundles import SIDE

from retinue_server.bundle import manifest as manifests
from retinue_server.runtime.providers import CPU, Provider
from retinue_server.runtime.session import Machine, Session, Threads

ON_CPU = Provider(CPU, "cpu", "", ((CPU, {}),))
ONE_THREAD = Threads(2, 1)
COLOURS = np.zeros((3, SIDE, SIDE, 3), np.uint8)
for channel in range(3):
    COLOURS[channel, ..., channel] = 255


def opened(bundle: Path, provider: Provider = ON_CPU, machine: Machine | None = None) -> Session:
    """The session of a bundle, one thread a run if nothing else is said."""
    return Session(bundle / "model.onnx", manifests.read(bundle), machine or Machine(provider, ONE_THREAD))

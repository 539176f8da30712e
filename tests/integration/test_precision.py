"""Bundles of fewer bits are served as any other."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from retinue.v1 import manifest_pb2 as pb
from tests.calls import Connection, connected, raw
from tests.server_process import running_server
from tests.unit.export import tiny

from retinue_export import assembly, parity
from retinue_export.image_folders import Calibration
from retinue_export.precision import Precision, Wanted

IMAGES = tiny.images(12)
PRECISIONS = {Precision.FP16: pb.PRECISION_FP16, Precision.INT8: pb.PRECISION_INT8}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a tiny classifier in 16 and one in 8 bits, named after their precision."""
    out = tmp_path_factory.mktemp("models")
    for precision in PRECISIONS:
        candidate = tiny.candidate()
        candidate.manifest.name = precision
        calibration = Calibration("noise", IMAGES, IMAGES) if precision is Precision.INT8 else None
        wanted = Wanted(precision, calibration, max_drop=100)
        assembly.build(candidate, out, 1, lambda _stage: None, wanted)
    return out


@pytest.fixture(scope="module")
def connection(models: Path) -> Iterator[Connection]:
    with running_server(models) as server, connected(server.grpc_address) as connection:
        yield connection


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_bundle_of_fewer_bits_answers_as_its_graph_does(
    connection: Connection, models: Path, precision: Precision
) -> None:
    content = (models / precision / "1" / "model.onnx").read_bytes()
    expected = parity.runner(parity.session(content))(IMAGES)["probabilities"]
    response = connection.classify(*map(raw, IMAGES), model=precision, top_k=3)
    for outcome, probabilities in zip(response.outcomes, expected, strict=True):
        served = {found.class_id: found.score for found in outcome.result.classes}
        np.testing.assert_allclose([served[number] for number in range(3)], probabilities, atol=1e-5)
    assert connection.get_model(precision).manifest.precision == PRECISIONS[precision]

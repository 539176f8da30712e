"""A server that is killed can be started again where it was, and its callers find it."""

import signal
import socket
from pathlib import Path

import grpc
import pytest
from retinue.v1 import vision_service_pb2 as pb
from tests.calls import connected, flat
from tests.server_process import running_server


def test_a_killed_server_starts_again_on_its_ports(colour_models: Path) -> None:
    request = pb.ClassifyRequest(images=[flat(0, 0, 255)])
    with running_server(colour_models) as first:
        port = first.grpc_address.rpartition(":")[2]
        http_port = first.http_url.rpartition(":")[2]
        with connected(first.grpc_address) as connection:
            assert connection.vision.Classify(request).model == "colour-classifier"
            # Somebody else's connection is still open when the server dies.
            with socket.create_connection(("127.0.0.1", int(port))):
                first.process.send_signal(signal.SIGKILL)
                assert first.wait() == -signal.SIGKILL
                with pytest.raises(grpc.RpcError) as raised:
                    connection.vision.Classify(request)
                assert raised.value.code() is grpc.StatusCode.UNAVAILABLE

                arguments = ("--grpc-port", port, "--http-port", http_port)
                with running_server(colour_models, *arguments) as second:
                    assert second.grpc_address == first.grpc_address
                    assert second.http_url == first.http_url
                    # The same channel finds the new server.
                    response = connection.vision.Classify(request, wait_for_ready=True, timeout=30)
                    assert response.outcomes[0].result.classes[0].label == "blue"
                    assert second.terminate() == 0

"""A bare grpc.aio server with one reply to every Classify call: `python -m benchmarks.canned` prints its port.

It reads nothing and runs nothing, so that what a call takes is the transport's and its caller's.
"""

import grpc.aio
import uvloop
from retinue.v1 import vision_service_pb2 as pb

_LABELS = ("Egyptian cat", "tabby", "tiger cat", "lynx", "Persian cat")
_REPLY = pb.ClassifyResponse(
    model="canned",
    version=1,
    outcomes=[
        pb.ClassifyOutcome(
            result=pb.Classification(
                classes=[
                    pb.ClassScore(class_id=place, label=label, score=2.0 ** -(place + 1))
                    for place, label in enumerate(_LABELS)
                ]
            ),
            timing=pb.Timing(decode_us=1500, queue_us=20, inference_us=3000, total_us=4600, batch_size=1),
        )
    ],
).SerializeToString()


async def _classify(_request: bytes, _context: object) -> bytes:
    return _REPLY


async def _serve() -> None:
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_classify)
    service = grpc.method_handlers_generic_handler("retinue.v1.VisionService", {"Classify": handler})
    server.add_generic_rpc_handlers([service])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve())

"""A bare grpc.aio server that sends back what it gets: `python -m benchmarks.echo` prints its port.

It is what a call costs before a server does anything: no message is parsed, nothing is run.
"""

import grpc.aio
import uvloop

METHOD = "/benchmarks.Echo/Call"


async def _echo(request: bytes, _context: object) -> bytes:
    return request


async def _serve() -> None:
    server = grpc.aio.server()
    service, _, method = METHOD.removeprefix("/").partition("/")
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve())

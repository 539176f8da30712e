"""grpcio's own server with ONNX Runtime in the handler, as in its Python quick start: a pool of threads."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from classifier import Classifier

_THREADS = 10


def main(port: str) -> None:
    classifier = Classifier()

    def classify(jpeg: bytes, _context: grpc.ServicerContext) -> bytes:
        return json.dumps(classifier.classify(jpeg)).encode()

    server = grpc.server(ThreadPoolExecutor(_THREADS))
    handlers = {"Classify": grpc.unary_unary_rpc_method_handler(classify)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("peer.Classifier", handlers)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


main(sys.argv[1])

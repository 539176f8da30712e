"""A closed-loop client in a process of its own: `python -m benchmarks.load ADDRESS MODEL CALLERS SECONDS` prints JSON.

Requests are serialised once and replies are not parsed, so that the client takes as little of the machine as it can.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb

from benchmarks.photos import jpegs

_METHOD = "/retinue.v1.VisionService/Classify"


def drive(address: str, model: str, callers: int, seconds: float) -> dict[str, Any]:
    """Calls with one image a request, `callers` at once, for `seconds` after a warm-up of a fifth of that."""
    requests = [
        pb.ClassifyRequest(model=model, images=[image_pb2.Image(encoded=jpeg)]).SerializeToString()
        for jpeg in jpegs()
    ]
    latencies: list[float] = []
    starting = time.monotonic() + seconds / 5
    ending = starting + seconds

    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(_METHOD)
        call(requests[0], timeout=30, wait_for_ready=True)

        def work(number: int) -> None:
            position = number
            while (began := time.monotonic()) < ending:
                call(requests[position % len(requests)], timeout=30)
                position += 1
                if began >= starting:
                    latencies.append(time.monotonic() - began)

        with ThreadPoolExecutor(callers) as pool:
            working = [pool.submit(work, number) for number in range(callers)]
            time.sleep(max(0.0, starting - time.monotonic()))
            cpu_before = time.process_time()
            print("measuring", flush=True)
            for one in working:
                # A call that fails ends the measurement.
                one.result()
    latencies.sort()
    return {
        "images": len(latencies),
        "seconds": seconds,
        "images_per_second": len(latencies) / seconds,
        "client_cpu_seconds": time.process_time() - cpu_before,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(len(latencies) * 0.99)],
    }


if __name__ == "__main__":
    address, model, callers, seconds = sys.argv[1:]
    print(json.dumps(drive(address, model, int(callers), float(seconds))))

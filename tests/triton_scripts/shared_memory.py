"""Puts inputs into system shared memory and takes outputs from it; tells how each step went."""

import base64
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import talk
from tritonclient.utils import serialize_byte_tensor
from tritonclient.utils import shared_memory as shm

_ROW_BYTES = 3 * 4


def main() -> None:
    given = talk.given()
    with talk.library(given).InferenceServerClient(given["address"]) as client:
        talk.tell(steps(client, given) if "pixels" in given else refused_steps(client))


def steps(client: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Colours through shared memory, as pixels and as files."""
    library = talk.library(given)
    pixels = np.frombuffer(base64.b64decode(given["pixels"]), np.uint8).reshape(-1, 8, 8, 3)
    files = np.array([base64.b64decode(file) for file in given["files"]], object)
    serialized = serialize_byte_tensor(files)
    count = len(pixels)
    told: dict[str, Any] = {}
    with (
        region("pixels", pixels.nbytes) as pixels_region,
        region("files", len(serialized.item())) as files_region,
        region("rows", 64 + count * _ROW_BYTES) as rows_region,
    ):
        shm.set_shared_memory_region(pixels_region, [pixels])
        shm.set_shared_memory_region(files_region, [serialized])
        for name, size in (
            ("pixels", pixels.nbytes),
            ("files", len(serialized.item())),
            ("rows", 64 + count * _ROW_BYTES),
        ):
            client.register_system_shared_memory(name, key(name), size)
        told["status"] = regions(client.get_system_shared_memory_status)
        told["one status"] = regions(client.get_system_shared_memory_status, "rows")

        inputs = [library.InferInput("images", list(pixels.shape), "UINT8")]
        inputs[0].set_shared_memory("pixels", pixels.nbytes)
        told["inline"] = client.infer("colour-classifier", inputs).as_numpy("probabilities").tolist()

        outputs = [library.InferRequestedOutput("probabilities")]
        outputs[0].set_shared_memory("rows", count * _ROW_BYTES, offset=64)
        result = client.infer("colour-classifier", inputs, outputs=outputs)
        told["in the answer"] = has_content(result.get_response())
        told["shared"] = shm.get_contents_as_numpy(rows_region, np.float32, (count, 3), offset=64).tolist()
        told["before the offset"] = shm.get_contents_as_numpy(rows_region, np.uint8, (64,)).max().item()

        by_files = [library.InferInput("images", [count], "BYTES")]
        by_files[0].set_shared_memory("files", len(serialized.item()))
        told["of files"] = client.infer("colour-classifier", by_files).as_numpy("probabilities").tolist()

        outputs[0].set_shared_memory("rows", count * _ROW_BYTES - 1)
        told["too little room"] = talk.attempted(
            lambda: client.infer("colour-classifier", inputs, outputs=outputs)
        )
        outputs[0].set_shared_memory("rows", count * _ROW_BYTES, offset=65)
        told["beyond the end"] = talk.attempted(
            lambda: client.infer("colour-classifier", inputs, outputs=outputs)
        )
        inputs[0].set_shared_memory("pixels", pixels.nbytes - 1)
        told["too few bytes"] = talk.attempted(lambda: client.infer("colour-classifier", inputs))
        inputs[0].set_shared_memory("pixels", pixels.nbytes)

        client.unregister_system_shared_memory("pixels")
        told["unregistered"] = talk.attempted(lambda: client.infer("colour-classifier", inputs))
        told["status after"] = regions(client.get_system_shared_memory_status)
        client.unregister_system_shared_memory()
        told["status at the end"] = regions(client.get_system_shared_memory_status)
    return told


def refused_steps(client: Any) -> dict[str, Any]:
    """Registrations that are none."""
    told: dict[str, Any] = {}
    with region("some", 4096):
        client.register_system_shared_memory("some", key("some"), 4096)
        told["twice"] = talk.attempted(
            lambda: client.register_system_shared_memory("some", key("some"), 4096)
        )
        told["larger than it is"] = talk.attempted(
            lambda: client.register_system_shared_memory("larger", key("some"), 1 << 40)
        )
        client.unregister_system_shared_memory("some")
    told["absent"] = talk.attempted(lambda: client.register_system_shared_memory("none", "/absent", 16))
    told["outside"] = talk.attempted(
        lambda: client.register_system_shared_memory("none", "/../../etc/passwd", 16)
    )
    told["unknown status"] = talk.attempted(lambda: client.get_system_shared_memory_status("nobody"))
    handle = base64.b64encode(bytes(64))
    told["cuda"] = talk.attempted(lambda: client.register_cuda_shared_memory("gpu", handle, 0, 64))
    told["cuda status"] = regions(client.get_cuda_shared_memory_status)
    told["cuda unregister"] = talk.attempted(client.unregister_cuda_shared_memory)
    return told


def has_content(response: Any) -> bool:
    """Whether an answer has any of its outputs itself."""
    if isinstance(response, dict):
        return any("data" in one or "binary_data_size" in one["parameters"] for one in response["outputs"])
    return any(response.raw_output_contents)


def regions(status: Any, *names: str) -> dict[str, Any]:
    """What the server says of regions, by their names."""
    told = status(*names)
    if isinstance(told, list):
        return {one["name"]: one for one in told}
    return {name: {"byte_size": one.byte_size} for name, one in told.regions.items()}


@contextlib.contextmanager
def region(name: str, byte_size: int) -> Iterator[shm.SharedMemoryRegion]:
    """A shared memory object, unlinked afterwards."""
    made = shm.create_shared_memory_region(name, key(name), byte_size, create_only=True)
    try:
        yield made
    finally:
        shm.destroy_shared_memory_region(made)


def key(name: str) -> str:
    return f"retinue-test-{os.getpid()}-{name}"


if __name__ == "__main__":
    main()

"""Sends requests in each of the ways that the client has, and tells the answers."""

import asyncio
import base64
import queue
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import talk
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.grpc.aio import InferenceServerClient as AsyncInferenceServerClient
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

_TIMEOUT_SECONDS = 60


def main() -> None:
    given = talk.given()
    ways = {"sync": sync, "async": with_callbacks, "stream": stream}
    requests = [arguments(request) for request in given["requests"]]
    if given["how"] in ways:
        with InferenceServerClient(given["address"]) as client:
            told = ways[given["how"]](client, requests)
    else:
        told = asyncio.run(with_asyncio(given["address"], requests, streamed=given["how"] == "aio stream"))
    talk.tell(told)


def sync(client: InferenceServerClient, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [talk.attempted(lambda: answer(client.infer(**request))) for request in requests]  # noqa: B023


def with_callbacks(client: InferenceServerClient, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All at once, told in their order."""
    told: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
    for number, request in enumerate(requests):
        client.async_infer(
            callback=lambda result, error, number=number: told.put((number, either(result, error))), **request
        )
    by_number = dict(told.get(timeout=_TIMEOUT_SECONDS) for _ in requests)
    return [by_number[number] for number in range(len(requests))]


def stream(client: InferenceServerClient, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All in one stream, told as they come."""
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: told.put(either(result, error)))
    for request in requests:
        client.async_stream_infer(**request)
    answers = [told.get(timeout=_TIMEOUT_SECONDS) for _ in requests]
    client.stop_stream()
    assert told.empty()
    return answers


async def with_asyncio(
    address: str, requests: list[dict[str, Any]], *, streamed: bool
) -> list[dict[str, Any]]:
    async def all_requests() -> AsyncIterator[dict[str, Any]]:
        for request in requests:
            yield request

    async def one(request: dict[str, Any]) -> dict[str, Any]:
        try:
            return answer(await client.infer(**request))
        except InferenceServerException as error:
            return talk.refusal(error)

    async with AsyncInferenceServerClient(address) as client:
        if streamed:
            return [either(*pair) async for pair in client.stream_infer(all_requests())]
        return await asyncio.gather(*map(one, requests))


def arguments(request: dict[str, Any]) -> dict[str, Any]:
    """A request as the client takes it."""
    outputs = [InferRequestedOutput(name, class_count=count) for name, count in request["outputs"]]
    return {
        "model_name": request["model"],
        "inputs": [tensor(one) for one in request["inputs"]],
        "outputs": outputs or None,
        **request["options"],
    }


def tensor(one: dict[str, Any]) -> InferInput:
    made = InferInput(one["name"], one["shape"], one["datatype"])
    made.set_data_from_numpy(values(one))
    return made


def values(one: dict[str, Any]) -> Any:
    """The array of an input, of BYTES as objects."""
    if one["datatype"] == "BYTES":
        array = np.array([base64.b64decode(element) for element in one["elements"]], object)
    else:
        array = np.frombuffer(base64.b64decode(one["raw"]), triton_to_np_dtype(one["datatype"]))
    return array.reshape(one["shape"])


def either(result: InferResult | None, error: InferenceServerException | None) -> dict[str, Any]:
    return talk.refusal(error) if result is None else answer(result)


def answer(result: InferResult) -> dict[str, Any]:
    response = result.get_response()
    outputs = {
        one.name: output(one.datatype, list(one.shape), result.as_numpy(one.name)) for one in response.outputs
    }
    return {"id": response.id, "version": response.model_version, "outputs": outputs}


def output(datatype: str, shape: list[int], array: Any) -> dict[str, Any]:
    """An output as tests have it, of BYTES as texts."""
    if datatype == "BYTES":
        array = np.char.decode(array.astype(np.bytes_))
    return {"datatype": datatype, "shape": shape, "values": array.ravel().tolist()}


if __name__ == "__main__":
    main()

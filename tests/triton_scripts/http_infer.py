"""Sends requests with the HTTP client in each of the ways that it has, and tells the answers."""

import asyncio
from typing import Any

import infer
import talk
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.http.aio import InferenceServerClient as AsyncInferenceServerClient
from tritonclient.utils import InferenceServerException

_CONNECTIONS = 4


def main() -> None:
    given = talk.given()
    requests = [arguments(request) for request in given["requests"]]
    if given["how"] == "http aio":
        talk.tell(asyncio.run(with_asyncio(given["address"], requests)))
        return
    with InferenceServerClient(given["address"], concurrency=_CONNECTIONS) as client:
        if given["how"] == "http async":
            pending = [client.async_infer(**request) for request in requests]
            talk.tell([talk.attempted(lambda: answer(one.get_result())) for one in pending])  # noqa: B023
        else:
            talk.tell([talk.attempted(lambda: answer(client.infer(**one))) for one in requests])  # noqa: B023


async def with_asyncio(address: str, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    async def one(request: dict[str, Any]) -> dict[str, Any]:
        try:
            return answer(await client.infer(**request))
        except InferenceServerException as error:
            return talk.refusal(error)

    async with AsyncInferenceServerClient(address) as client:
        return await asyncio.gather(*map(one, requests))


def arguments(request: dict[str, Any]) -> dict[str, Any]:
    """A request as the client takes it; tensors go as JSON where it says so."""
    options = dict(request["options"])
    binary = not options.pop("as_json", False)
    outputs = [
        InferRequestedOutput(name, binary_data=binary, class_count=count)
        for name, count in request["outputs"]
    ]
    return {
        "model_name": request["model"],
        "inputs": [tensor(one, binary=binary) for one in request["inputs"]],
        "outputs": outputs or None,
        **options,
    }


def tensor(one: dict[str, Any], *, binary: bool) -> InferInput:
    # Files are no text, which JSON could hold.
    binary = binary or one["datatype"] == "BYTES"
    made = InferInput(one["name"], one["shape"], one["datatype"])
    made.set_data_from_numpy(infer.values(one), binary_data=binary)
    return made


def answer(result: InferResult) -> dict[str, Any]:
    response = result.get_response()
    outputs = {
        one["name"]: infer.output(one["datatype"], one["shape"], result.as_numpy(one["name"]))
        for one in response["outputs"]
    }
    return {"id": response.get("id", ""), "version": response["model_version"], "outputs": outputs}


if __name__ == "__main__":
    main()

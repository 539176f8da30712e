"""Calls methods of the client by name, one after the other."""

import inspect

import talk


def main() -> None:
    given = talk.given()
    told = []
    with talk.library(given).InferenceServerClient(given["address"]) as client:
        for name, arguments in given["calls"]:
            method = getattr(client, name)
            as_json = {"as_json": True} if "as_json" in inspect.signature(method).parameters else {}
            told.append(talk.attempted(lambda: method(**arguments, **as_json)))  # noqa: B023
    talk.tell(told)


if __name__ == "__main__":
    main()

"""Requests find their version by label, by their share, and the same one again by what they stick to."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format
from retinue.v1 import serving_pb2 as pb
from tests.unit.server.served import served_model

from retinue_server.catalog import Catalog
from retinue_server.errors import BundleError, ModelNotFoundError
from retinue_server.results import Task
from retinue_server.routing import Route

CANARY: dict[str, Any] = {
    "labels": {"stable": 3, "canary": 4},
    "split": [{"label": "stable", "percent": 90}, {"label": "canary", "percent": 10}],
    "sticky_key": "user-id",
}
USERS = [f"user-{number}" for number in range(5000)]


def policy(content: dict[str, Any]) -> pb.ServingPolicy:
    return json_format.ParseDict(content, pb.ServingPolicy())


def route(content: dict[str, Any], *versions: int, model: str = "cats") -> Route:
    return Route(model, policy(content), versions)


def by_user(of: Route) -> dict[str, int]:
    def never() -> float:
        pytest.fail("what sticks is no matter of chance")

    return {user: of.pick({"user-id": user}.get, never) for user in USERS}


def by_chance(of: Route) -> Counter[int]:
    return Counter(of.pick({}.get, random.Random(1).random) for _ in range(1)) + Counter(
        of.pick({}.get, draw) for draw in [random.Random(2).random] * 5000
    )


def test_without_a_split_the_newest_answers() -> None:
    assert route({}, 1, 2, 10).pick({}.get, random.random) == 10
    assert route({"labels": {"stable": 1}}, 1, 2).pick({}.get, random.random) == 2


def test_requests_are_shared_out_by_percentage() -> None:
    shares = by_chance(route(CANARY, 3, 4))
    assert set(shares) == {3, 4}
    assert 0.08 < shares[4] / shares.total() < 0.12
    users = Counter(by_user(route(CANARY, 3, 4)).values())
    assert 0.08 < users[4] / len(USERS) < 0.12


def test_what_sticks_is_the_same_in_every_process() -> None:
    # Whoever changes these moves users of running services to other versions.
    users = by_user(route(CANARY, 3, 4))
    assert [user for user in USERS[:40] if users[user] == 4] == ["user-17", "user-21", "user-36", "user-38"]


def test_a_larger_share_keeps_whom_it_had() -> None:
    more = {**CANARY, "split": [{"label": "stable", "percent": 70}, {"label": "canary", "percent": 30}]}
    before, after = by_user(route(CANARY, 3, 4)), by_user(route(more, 3, 4))
    assert all(after[user] == 4 for user, version in before.items() if version == 4)
    assert 0.26 < Counter(after.values())[4] / len(USERS) < 0.34


def test_users_of_one_model_are_not_those_of_another() -> None:
    here, there = by_user(route(CANARY, 3, 4)), by_user(route(CANARY, 3, 4, model="dogs"))
    both = sum(here[user] == there[user] == 4 for user in USERS)
    assert both < 0.03 * len(USERS)


@pytest.mark.parametrize("metadata", [{}, {"user-id": ""}, {"other": "x"}])
def test_a_request_without_the_entry_is_shared_out_by_chance(metadata: dict[str, str]) -> None:
    of = route(CANARY, 3, 4)
    assert of.pick(metadata.get, lambda: 0.89) == 3
    assert of.pick(metadata.get, lambda: 0.91) == 4
    assert of.pick(metadata.get, lambda: 0.0) == 3


@pytest.mark.parametrize("entry", ["é", "\udc80", "x" * 8000, "\0"])
def test_whatever_a_caller_sends_finds_a_version(entry: str) -> None:
    assert route(CANARY, 3, 4).pick({"user-id": entry}.get, random.random) in (3, 4)


def test_the_share_of_a_version_that_is_not_served_goes_to_those_that_are() -> None:
    three = {
        "split": [
            {"version": 1, "percent": 50},
            {"version": 2, "percent": 25},
            {"version": 3, "percent": 25},
        ],
        "sticky_key": "user-id",
    }
    whole, without = by_user(route(three, 1, 2, 3, 9)), by_user(route(three, 1, 3, 9))
    assert all(without[user] == version for user, version in whole.items() if version != 2)
    moved = Counter(without[user] for user, version in whole.items() if version == 2)
    assert 0.6 < moved[1] / moved.total() < 0.73
    # Where none is served, the newest is better than nothing.
    assert set(by_user(route(three, 8, 9)).values()) == {9}
    assert route(three, 8, 9).missing == {1, 2, 3}


def test_the_shares_of_two_labels_for_one_version_add_up() -> None:
    split = [{"label": label, "percent": percent} for label, percent in (("a", 40), ("b", 30), ("c", 30))]
    of = route({"labels": {"a": 1, "b": 2, "c": 2}, "split": split}, 1, 2, 3)
    assert of.main == 2
    assert [of.pick({}.get, lambda point=point: point) for point in (0.39, 0.41, 0.99)] == [1, 2, 2]  # type: ignore[misc]


@pytest.fixture
def catalog() -> Catalog:
    models = [served_model("cats", version) for version in (3, 4, 5)] + [served_model("dogs")]
    policies = {"cats": policy({**CANARY, "labels": {"stable": 3, "canary": 4, "next": 6, "old": 1}})}
    return Catalog(models, {("cats", 6): BundleError("model.onnx is no model.")}, policies, draw=lambda: 0.95)


def missing(call: Callable[[], object]) -> str:
    with pytest.raises(ModelNotFoundError) as raised:
        call()
    return raised.value.message


def test_a_label_is_a_name_of_a_version(catalog: Catalog) -> None:
    assert catalog.pick("cats", "stable").version == 3
    assert catalog.for_task(Task.CLASSIFY, "cats", "canary").version == 4
    assert catalog.get("cats", "canary").version == 4
    assert catalog.serves("cats", "canary")
    assert not any(
        catalog.serves(name, label) for name, label in [("cats", "next"), ("cats", "x"), ("dogs", "stable")]
    )


def test_a_request_that_names_none_goes_by_the_split(catalog: Catalog) -> None:
    assert catalog.pick("cats").version == 4
    assert catalog.for_task(Task.CLASSIFY, "cats", 0, {"user-id": "user-0"}.get).version == 3
    assert catalog.pick("cats", 5).version == 5
    # To be told of, a model is what most requests get of it.
    assert catalog.get("cats").version == 3
    assert catalog.pick("dogs").version == 1


def test_a_label_that_cannot_be_served_is_told_with_what_can(catalog: Catalog) -> None:
    assert missing(lambda: catalog.pick("cats", "gold")) == (
        "model 'cats' has no label 'gold'; labels: 'canary', 'next', 'old', 'stable'; versions served: '5', '4', '3'."
    )
    assert missing(lambda: catalog.pick("cats", "next")) == (
        "label 'next' of model 'cats' is version 6, which cannot be served: model.onnx is no model. Versions served: "
        "'5', '4', '3'."
    )
    assert "is version 1, which is not served." in missing(lambda: catalog.get("cats", "old"))
    assert "no label 'stable'; labels: none" in missing(lambda: catalog.pick("dogs", "stable"))
    assert missing(lambda: catalog.pick("fish", "stable")).startswith("there is no model 'fish'")
    assert len(missing(lambda: catalog.pick("cats", "x" * 100_000))) < 300
    assert catalog.missing() == [("cats", 1), ("cats", 6)]


def test_copies_are_made_of_a_share_of_what_other_versions_answer() -> None:
    shadowed = {"shadow": {"version": 4, "percent": 25}}
    of = route(shadowed, 3, 4)
    draw = random.Random(3).random
    copied = [of.shadow(3, draw) for _ in range(4000)]
    assert set(copied) == {4, None}
    assert 0.22 < copied.count(4) / len(copied) < 0.28
    assert of.shadow(4, lambda: 0.0) is None
    assert route(shadowed, 3).shadow(3, lambda: 0.0) is None
    assert route({}, 3, 4).shadow(3, lambda: 0.0) is None

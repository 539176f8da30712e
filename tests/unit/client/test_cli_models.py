"""What `retinue models` tells of the models of a server."""

import pytest
from google.protobuf import json_format
from retinue.v1 import vision_service_pb2 as pb
from tests.unit.client.command_output import lines


def test_models_are_a_table(retinue):
    result = retinue("models")
    assert result.exit_code == 0
    heading, first, *_ = result.stdout.splitlines()
    assert heading.split("  ")[0] == "name"
    words = first.split()
    assert words[:3] == ["a-classifier", "3", "classify"]
    assert "224x160 (h x w) rgb" in first
    assert "top-1 0.925" in first
    assert first.rstrip().endswith("12.0 MiB (7.0 + 4.0 + 1.0)")
    assert "CPU " in first


def test_the_table_of_models_says_what_a_detector_can_do(retinue):
    _, classifier, detector, segmenter, _ = retinue("models").stdout.splitlines()
    assert "detect (regions, masks, keypoints)" in detector
    assert "classify  " in classifier
    assert "segment  " in segmenter


def served(server, *versions, **policy):
    """Has the server serve these versions of its first model so, and nothing else."""
    models = []
    for version in versions:
        models.append(pb.Model())
        models[-1].CopyFrom(server.service.models[0])
        models[-1].version = version
        json_format.ParseDict(policy, models[-1].serving)
    server.service.models[:] = models


@pytest.mark.parametrize(
    ("versions", "policy", "told"),
    [
        ((4, 3), {}, ["newest", ""]),
        ((3,), {"labels": {"stable": 3}}, ["stable, newest"]),
        ((4, 3), {"labels": {"stable": 3}}, ["newest", "stable"]),
        (
            (4, 3),
            {
                "labels": {"stable": 3, "canary": 4},
                "split": [{"label": "stable", "percent": 90}, {"label": "canary", "percent": 10}],
                "shadow": {"label": "canary", "percent": 25},
            },
            ["canary, 10 %, copies of 25 %", "stable, 90 %"],
        ),
        # What is missing leaves its share to the others.
        (
            (4, 3),
            {"split": [{"version": n, "percent": p} for n, p in ((2, 70), (3, 20), (4, 10))]},
            ["33.3 %", "66.7 %"],
        ),
        ((4, 3), {"split": [{"version": 2, "percent": 100}]}, ["newest", ""]),
        (
            (3,),
            {
                "split": [{"version": 3, "percent": 50}, {"version": 2, "percent": 50}],
                "shadow": {"version": 3, "percent": 25},
            },
            ["100 %"],
        ),
    ],
)
def test_the_table_of_models_says_which_requests_a_version_answers(retinue, server, versions, policy, told):
    served(server, *versions, **policy)
    heading, *rows = retinue("models").stdout.splitlines()
    assert heading.rstrip().endswith("requests")
    place = heading.index("requests")
    assert [row[place:].rstrip() for row in rows[: len(told)]] == told


def test_where_no_version_is_chosen_the_table_of_models_has_no_column_for_it(retinue):
    assert "requests" not in retinue("models").stdout


def test_pipelines_are_told_from_models(retinue, server):
    for number in (0, 1):
        changed = pb.Model()
        changed.CopyFrom(server.service.models[number])
        changed.manifest.pipeline.steps.add(model="one")
        changed.manifest.pipeline.steps.add(model="other")
        server.service.models[number] = changed
    _, first, second, *_ = retinue("models").stdout.splitlines()
    assert "classify (pipeline)  " in first
    assert "detect (pipeline, regions, masks, keypoints)" in second
    steps = [line["steps"] for line in lines(retinue("models", "--json"))]
    assert steps == [["one", "other"], ["one", "other"], []]


def test_models_in_json_are_one_a_line(retinue):
    names = [line["name"] for line in lines(retinue("models", "--json"))]
    assert names == ["a-classifier", "b-detector", "c-segmenter"]

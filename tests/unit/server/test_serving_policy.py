"""serving.json is read strictly: what does not hold is refused with the field that does not, and never half taken."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from retinue.v1 import serving_pb2 as pb

from retinue_server.bundle import serving
from retinue_server.errors import BundleError

WHOLE = {
    "latest": 2,
    "labels": {"stable": 3, "canary": 4},
    "split": [{"label": "stable", "percent": 90}, {"version": 4, "percent": 10}],
    "sticky_key": "user-id",
    "shadow": {"version": 5, "percent": 100},
}


def refused(models: Path, content: object) -> str:
    """Why such a file is refused."""
    (models / "a").mkdir(exist_ok=True)
    (models / "a" / "serving.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(BundleError) as raised:
        serving.read(models / "a")
    assert raised.value.reason == "SERVING_POLICY_INVALID"
    assert raised.value.message.startswith("serving.json")
    assert str(models) not in raised.value.message
    return raised.value.message


def read(models: Path, content: object) -> pb.ServingPolicy:
    (models / "a").mkdir(exist_ok=True)
    (models / "a" / "serving.json").write_text(json.dumps(content))
    return serving.read(models / "a")


def test_without_a_file_or_with_an_empty_one_all_versions_are_served(tmp_path: Path) -> None:
    assert serving.read(tmp_path / "a") == serving.EVERY_VERSION == read(tmp_path, {})
    assert serving.chosen(serving.EVERY_VERSION, [1, 2, 10]) == {1, 2, 10}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"latest": 1}, {10}),
        ({"latest": 2}, {3, 10}),
        ({"latest": 9}, {1, 2, 3, 10}),
        ({"list": {"versions": [1, 3, 4]}}, {1, 3}),
        # What is named is served whatever is the newest, so that a version that comes takes none away that is used.
        ({"latest": 1, "labels": {"stable": 1}}, {1, 10}),
        ({"latest": 1, "split": [{"version": 2, "percent": 100}]}, {2, 10}),
        ({"latest": 1, "shadow": {"version": 3, "percent": 1}}, {3, 10}),
    ],
)
def test_a_policy_chooses_versions(content: object, expected: set[int], tmp_path: Path) -> None:
    assert serving.chosen(read(tmp_path, content), [1, 2, 3, 10]) == expected


def test_everything_that_a_file_may_say_is_read(tmp_path: Path) -> None:
    policy = read(tmp_path, WHOLE)
    assert dict(policy.labels) == {"stable": 3, "canary": 4}
    assert [serving.version_of(policy, share) for share in policy.split] == [3, 4]
    assert serving.named(policy) == {3, 4, 5}


def test_the_example_of_the_documentation_holds(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "serving-policy.md").read_text()
    policy = read(tmp_path, json.loads(page.partition("```json")[2].partition("```")[0]))
    assert serving.named(policy) == {1, 2}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"latest": 0}, "`latest` must be at least 1"),
        ({"latest": -1}, "`latest`"),
        ({"latest": None, "list": {"versions": []}}, "`list.versions` must have 1 to 1024"),
        ({"latest": None, "list": {"versions": [3, 3]}}, "`list.versions` must have each version once"),
        ({"latest": None, "list": {"versions": [0]}}, "`list.versions` must be 1 to"),
        ({"latest": None, "list": {"versions": [3, 4]}}, "`list.versions` must have [5] too"),
        ({"labels": {"stable": 0, "canary": 4}}, "`labels.stable` must be 1 to"),
        ({"labels": {"stable": 3, "canary": 1_000_000_000}}, "`labels.canary`"),
        ({"labels": {"stable": 3, "4": 4}}, "`labels` must begin with a letter"),
        ({"labels": {"stable": 3, "": 4}}, "`labels` must begin with a letter"),
        ({"labels": {"stable": 3, "a b": 4}}, "`labels` must begin with a letter"),
        ({"labels": {"stable": 3, "a" * 65: 4}}, "`labels` must begin with a letter"),
        ({"labels": {f"label{number}": 1 for number in range(65)}}, "`labels` must be at most 64"),
        ({"labels": {}}, "`split[0].label` must be one of `labels`"),
        ({"split": [{"label": "stable", "percent": 90}]}, "`split` must have 100 percent, but has 90"),
        ({"split": [{"label": "stable", "percent": 101}]}, "`split[0].percent` must be 1 to 100"),
        ({"split": [{"label": "stable", "percent": -5}]}, "`split[0].percent`"),
        ({"split": [{"label": "stable"}]}, "`split[0].percent`"),
        ({"split": [{"percent": 100}]}, "`split[0]` must name a `label` or a `version`"),
        ({"split": [{"version": 0, "percent": 100}]}, "`split[0].version` must be 1 to"),
        (
            {"split": [{"version": number, "percent": 5} for number in range(1, 21)]},
            "`split` must have at most 16",
        ),
        ({"sticky_key": "User"}, "`sticky_key`"),
        ({"sticky_key": "grpc-timeout"}, "`sticky_key`"),
        ({"sticky_key": "trace-bin"}, "`sticky_key`"),
        ({"sticky_key": "a" * 65}, "`sticky_key`"),
        ({"shadow": {"label": "gold", "percent": 1}}, "`shadow.label` must be one of `labels`"),
        ({"shadow": {"label": "canary", "percent": 0}}, "`shadow.percent`"),
        ({"shadow": {}}, "`shadow`"),
        ({"newest": 2}, "serving.json: field `newest` is unknown; there are `latest`, `list`, `labels`, "),
        (
            {"latest": "two"},
            'serving.json: field `latest` must be a whole number, not "two".',
        ),
        ({"latest": 1.5}, "latest"),
        ({"latest": True}, "latest"),
        ({"labels": ["stable"]}, "labels"),
        ({"labels": {"stable": "x", "canary": 4}}, "field `labels.stable` must be a whole number"),
        ({"latest": None, "list": [1]}, "field `list` must be an object with `versions`, not a list."),
        ({"split": {"label": "stable"}}, "field `split` must be a list, not an object."),
        ({"list": {"versions": [1]}}, "field `list` cannot be set beside `latest`; leave one of them out."),
    ],
)
def test_a_field_that_does_not_hold_is_named(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    content = {key: value for key, value in {**WHOLE, **changes}.items() if value is not None}
    assert named in refused(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        "{",
        '{"latest": 1, "latest": 2}',
        '{"latest": ' + "[" * 30_000,
        '{"labels": ' + '{"a":' * 200,
    ],
)
def test_what_is_no_policy_is_refused(content: str, tmp_path: Path) -> None:
    refused(tmp_path, content)


@pytest.mark.parametrize("odd", ["\\ud800", "\\u001b[31m", "x" * 60_000])
def test_what_is_odd_about_a_file_or_a_call_can_be_told(odd: str, tmp_path: Path) -> None:
    for content in (f'{{"labels": "{odd}"}}', f'{{"{odd}": 1}}'):
        told = [refused(tmp_path, content)]
        with pytest.raises(BundleError) as raised:
            serving.parse_config(content)
        told.append(raised.value.message)
        assert all(message.isprintable() and len(message) < 500 for message in told)


def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    assert "larger than 65536 bytes" in refused(tmp_path, "{" + " " * 70_000 + "}")
    (tmp_path / "a" / "serving.json").write_bytes(b'{"\xff": 1}')
    with pytest.raises(BundleError, match="not UTF-8"):
        serving.read(tmp_path / "a")


def test_only_a_file_within_the_models_folder_is_read(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "a").mkdir(parents=True)
    outside = tmp_path / "serving.json"
    outside.write_text('{"latest": 1}')
    (models / "a" / "serving.json").symlink_to(outside)
    with pytest.raises(BundleError, match="leads out of the models folder"):
        serving.read(models / "a")
    # As Kubernetes mounts them.
    (models / "a" / "serving.json").unlink()
    (models / "..data.json").write_text('{"latest": 1}')
    (models / "a" / "serving.json").symlink_to("../..data.json")
    assert serving.read(models / "a").latest == 1
    for odd in (
        os.mkfifo,
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("nothing"),
    ):
        (models / "b").mkdir()
        odd(models / "b" / "serving.json")
        with pytest.raises(BundleError, match=r"serving\.json"):
            serving.read(models / "b")
        (models / "b").rename(tmp_path / f"gone{len(list(tmp_path.iterdir()))}")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"labels": {"stable": 3}}, {"labels": {"stable": 3}}),
        ({"version_policy": {"all": {}}}, {}),
        ({"version_policy": {"latest": {}}}, {"latest": 1}),
        ({"version_policy": {"latest": {"num_versions": 2}}}, {"latest": 2}),
        ({"versionPolicy": {"latest": {"numVersions": 2}}}, {"latest": 2}),
        ({"version_policy": {"specific": {"versions": [1, "3"]}}}, {"list": {"versions": [1, 3]}}),
        ({"version_policy": {"latest": {}}, "labels": {"a": 1}}, {"latest": 1, "labels": {"a": 1}}),
    ],
)
def test_a_call_may_say_it_as_triton_does(config: object, expected: object, tmp_path: Path) -> None:
    assert serving.parse_config(json.dumps(config)) == read(tmp_path, expected)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ('{"max_batch_size": 8}', "has `max_batch_size`"),
        ('{"name": "a", "version_policy": {"all": {}}}', "has `name`"),
        ('{"version_policy": {}}', "`version_policy` must be"),
        ('{"version_policy": {"latest": {"num_versions": 1, "more": 1}}}', "`version_policy` must be"),
        ('{"version_policy": {"latest": {}, "all": {}}}', "`version_policy` must be"),
        ('{"version_policy": {"latest": {"num_versions": 0}}}', "`latest` must be at least 1"),
        ('{"version_policy": {"latest": {"num_versions": []}}}', "latest"),
        (
            '{"version_policy": {"latest": {}}, "list": {"versions": [1]}}',
            "`latest` cannot be set beside `list`",
        ),
        ("{", "no JSON"),
        ("[" * 30_000, "no JSON"),
        ("[]", "no JSON object"),
        ("{" + " " * 70_000 + "}", "more than 65536"),
        ('{"latest": 0}', "`latest`"),
    ],
)
def test_what_a_call_may_not_say_is_named(config: str, named: str) -> None:
    with pytest.raises(BundleError) as raised:
        serving.parse_config(config)
    assert named in raised.value.message
    assert raised.value.reason == "SERVING_POLICY_INVALID"
    assert len(raised.value.message) < 500

"""Reads serving.json, which says how the versions of a model are served, and refuses one that does not hold."""

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from retinue.v1 import serving_pb2 as pb

from retinue_server.bundle import json_file
from retinue_server.bundle.repository import FileState, check_inside, file_state
from retinue_server.errors import BundleError

SERVING_FILE = "serving.json"
MAX_SERVING_BYTES = 64 * 1024
LABEL_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
LABEL_RULE = "begin with a letter and have at most 64 letters, digits, '.', '_' and '-'"

ServingPolicy = pb.ServingPolicy
TrafficShare = pb.TrafficShare
EVERY_VERSION = ServingPolicy()

_INVALID, _UNMET = "SERVING_POLICY_INVALID", "SERVING_POLICY_UNMET"
_CORRECT = "correct it"
_MOST_LISTED = 1024
_MOST_LABELS = 64
_MOST_SHARES = 16
_MOST_VERSION = 999_999_999
_VERSION_RULE = f"must be 1 to {_MOST_VERSION}"
# gRPC keeps the rest for itself, or for bytes.
_STICKY_KEY_PATTERN = re.compile(r"(?!grpc-)[a-z0-9_.-]{1,64}(?<!-bin)")
# Triton's, in both of JSON's spellings.
_VERSION_POLICY = ("version_policy", "versionPolicy")

Check = tuple[bool, str, str]


def read(model: Path) -> pb.ServingPolicy:
    """Reads and validates the serving.json of a model; without one, all versions are served.

    Links may lead elsewhere in the models folder, but not out of it.

    Args:
        model: The model's folder.

    Raises:
        BundleError: It does not hold.
    """
    path = model / SERVING_FILE
    if not os.path.lexists(path):
        return EVERY_VERSION
    try:
        check_inside(path, model.parent, f"put {SERVING_FILE} into it")
        policy = json_file.read(path, pb.ServingPolicy(), MAX_SERVING_BYTES, _CORRECT)
    except BundleError as error:
        # It is for callers, too, who need not know where the folder lies.
        message = error.message.replace(f"{model}{os.sep}", "")
        raise BundleError(message, reason=_INVALID) from error
    return _validated(policy, SERVING_FILE)


def state(model: Path) -> FileState:
    """What differs once a model's serving.json was changed, replaced, put there or taken away."""
    return file_state(model / SERVING_FILE)


def parse_config(text: str) -> pb.ServingPolicy:
    """Reads and validates what a call that loads a model says: a serving policy, or Triton's `version_policy`.

    Raises:
        BundleError: It does not hold, or has anything else of Triton's configuration.
    """
    source = "the parameter 'config'"
    if len(text) > MAX_SERVING_BYTES:
        raise BundleError(f"{source} has more than {MAX_SERVING_BYTES} bytes.", reason=_INVALID)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{source} is no JSON: {error}; {_CORRECT}.", reason=_INVALID) from error
    if not isinstance(config, dict):
        raise BundleError(f"{source} is no JSON object; {_CORRECT}.", reason=_INVALID)
    fields = pb.ServingPolicy.DESCRIPTOR.fields_by_name
    known = {*fields, *(field.json_name for field in fields.values()), *_VERSION_POLICY}
    for key in config:
        if key not in known:
            raise BundleError(
                f"{source} has `{json_file.printable(key[:64])}`, which this server does not take with a call: it "
                f"takes {', '.join(fields)}, and Triton's {_VERSION_POLICY[0]}; leave the rest out.",
                reason=_INVALID,
            )
    for key in _VERSION_POLICY:
        if key in config:
            config.update(_of_triton(config.pop(key), source))
    try:
        policy = json_file.parse(json.dumps(config), pb.ServingPolicy(), source, _CORRECT)
    except BundleError as error:
        raise BundleError(error.message, reason=_INVALID) from error
    return _validated(policy, source)


def chosen(policy: pb.ServingPolicy, there: Collection[int], failed: Collection[int] = ()) -> set[int]:
    """Which of a model's versions are to be served, those of them that cannot be among them.

    Args:
        policy: Says which.
        there: The versions on disk.
        failed: Those that could not be loaded. Where the newest are to be served, the next older stand in for them.
    """
    which = policy.WhichOneof("versions")
    if which is None:
        return set(there)
    if which == "list":
        return set(policy.list.versions).intersection(there)
    newest = sorted(set(there).difference(failed))[-policy.latest :]
    oldest = newest[0] if len(newest) == policy.latest else 0
    return {*newest, *(version for version in failed if version > oldest), *named(policy)}.intersection(there)


def named(policy: pb.ServingPolicy) -> set[int]:
    """The versions that labels, split and shadow mean."""
    shares = [*policy.split, *([policy.shadow] if policy.HasField("shadow") else [])]
    return {*policy.labels.values(), *(version_of(policy, share) for share in shares)}


def version_of(policy: pb.ServingPolicy, share: pb.TrafficShare) -> int:
    """The version that a share is for."""
    return policy.labels[share.label] if share.WhichOneof("target") == "label" else share.version


def unmet(
    policy: pb.ServingPolicy,
    there: Collection[int],
    failures: Mapping[int, BundleError],
    served: Collection[int],
) -> BundleError | None:
    """Why a policy cannot take the place of one that is met: a version that it names is not served, or none would be.

    Args:
        policy: That is to hold.
        there: The versions on disk.
        failures: Why versions of them could not be loaded.
        served: Those that could.
    """
    for version in sorted(named(policy).difference(served)):
        error = failures.get(version)
        why = f"cannot be served: {error.message}" if error else "is not in the models folder."
        return BundleError(
            f"the serving policy names version {version}, which {why}",
            reason=error.reason if error else _UNMET,
        )
    wanted = chosen(policy, there, failures)
    if not wanted:
        return chooses_none(policy, there)
    error = failures.get(max(wanted))
    if error is not None and wanted.isdisjoint(served):
        return BundleError(
            f"the serving policy chooses only what cannot be served: {error.message}", reason=error.reason
        )
    return None


def chooses_none(policy: pb.ServingPolicy, there: Collection[int]) -> BundleError | None:
    """Why nothing can be served by a policy, where that is so."""
    if chosen(policy, there):
        return None
    listed = ", ".join(map(str, policy.list.versions[:10]))
    return BundleError(
        f"the serving policy chooses version {listed}, and the models folder has none of these.",
        reason=_UNMET,
    )


def _of_triton(policy: Any, source: str) -> Mapping[str, Any]:
    """What Triton's `version_policy` is in a serving policy.

    Source: Triton's model_config.proto, ModelVersionPolicy.
    """
    match policy:
        case {"all": {**rest}, **others} if not rest and not others:
            return {}
        case {"latest": {**rest}, **others} if rest.keys() <= {"num_versions", "numVersions"} and not others:
            return {"latest": next(iter(rest.values()), 1)}
        case {"specific": {"versions": list(versions), **rest}, **others} if not rest and not others:
            return {"list": {"versions": versions}}
    raise BundleError(
        f'{source}: field `{_VERSION_POLICY[0]}` must be {{"all": {{}}}}, {{"latest": {{"num_versions": 1}}}} or '
        '{"specific": {"versions": [1]}}.',
        reason=_INVALID,
    )


def _validated(policy: pb.ServingPolicy, source: str) -> pb.ServingPolicy:
    for check in (_version_checks, _label_checks, _split_checks, _shadow_checks, _list_checks):
        # Each may rely on what those before it have found to hold.
        for holds, field, rule in check(policy):
            if not holds:
                raise BundleError(f"{source}: field `{field}` {rule}.", reason=_INVALID)
    return policy


def _version_checks(policy: pb.ServingPolicy) -> list[Check]:
    which, listed = policy.WhichOneof("versions"), policy.list.versions
    return [
        (
            which != "latest" or policy.latest >= 1,
            "latest",
            "must be at least 1, or left out for all versions",
        ),
        (
            which != "list" or 1 <= len(listed) <= _MOST_LISTED,
            "list.versions",
            f"must have 1 to {_MOST_LISTED} versions",
        ),
        (all(map(_is_version, listed)), "list.versions", _VERSION_RULE),
        (len(set(listed)) == len(listed), "list.versions", "must have each version once"),
    ]


def _label_checks(policy: pb.ServingPolicy) -> list[Check]:
    labels = policy.labels
    return [
        (len(labels) <= _MOST_LABELS, "labels", f"must be at most {_MOST_LABELS}"),
        (all(map(LABEL_PATTERN.fullmatch, labels)), "labels", f"must {LABEL_RULE}"),
        *((_is_version(version), f"labels.{label}", _VERSION_RULE) for label, version in labels.items()),
    ]


def _split_checks(policy: pb.ServingPolicy) -> list[Check]:
    split = policy.split
    checks: list[Check] = [
        (len(split) <= _MOST_SHARES, "split", f"must have at most {_MOST_SHARES} shares"),
        *(
            check
            for number, share in enumerate(split)
            for check in _share_checks(policy, share, f"split[{number}]")
        ),
        (
            not policy.sticky_key or _STICKY_KEY_PATTERN.fullmatch(policy.sticky_key) is not None,
            "sticky_key",
            "must be 1 to 64 of lower-case letters, digits, '.', '_' and '-', and neither begin with 'grpc-' nor end "
            "with '-bin'",
        ),
    ]
    total = sum(share.percent for share in split)
    checks.append((not split or total == 100, "split", f"must have 100 percent, but has {total}"))
    return checks


def _shadow_checks(policy: pb.ServingPolicy) -> list[Check]:
    return _share_checks(policy, policy.shadow, "shadow") if policy.HasField("shadow") else []


def _share_checks(policy: pb.ServingPolicy, share: pb.TrafficShare, field: str) -> list[Check]:
    target = share.WhichOneof("target")
    return [
        (target is not None, field, "must name a `label` or a `version`"),
        (target != "label" or share.label in policy.labels, f"{field}.label", "must be one of `labels`"),
        (target != "version" or _is_version(share.version), f"{field}.version", _VERSION_RULE),
        (1 <= share.percent <= 100, f"{field}.percent", "must be 1 to 100"),
    ]


def _list_checks(policy: pb.ServingPolicy) -> list[Check]:
    if policy.WhichOneof("versions") != "list":
        return []
    left_out = sorted(named(policy) - set(policy.list.versions))
    return [(not left_out, "list.versions", f"must have {left_out} too, which the other fields name")]


def _is_version(version: int) -> bool:
    return 1 <= version <= _MOST_VERSION

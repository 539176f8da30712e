"""Moves a label of a model to another version: in the file that its server goes by."""

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from retinue.v1 import serving_pb2

SERVING_FILE = "serving.json"
# Whoever has made it changes the file.
_COMING = f".{SERVING_FILE}.coming"
# Where a platform has none, it has no pipes that wait for ever either.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)

# As servers have it, and what says so to people.
LABEL = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
LABEL_RULE = "begins with a letter and has at most 64 letters, digits, '.', '_' and '-'"
# As servers have it: no way out of the folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
# As servers have it, too.
_MOST_BYTES = 64 * 1024
_WHOLE = 100


class PromotionError(Exception):
    """A label cannot be moved.

    Attributes:
        message: Why, and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion has changed.

    Attributes:
        before: The version that had the label, None where the file had no such label.
        others: Where requests without a version go, such as "by the split", where the promoted version answers none of
            them; None where it answers some.
    """

    before: int | None
    others: str | None


class ServingFile:
    """The serving.json of a model.

    Args:
        models: The folder of all models.
        name: The model's.

    Attributes:
        path: Where the file is, or will be.

    Raises:
        PromotionError: There is no such model, or the file is none that can be changed here.
    """

    def __init__(self, models: Path, name: str) -> None:
        self._folder = models / name
        if not _NAME.fullmatch(name) or not os.path.isdir(self._folder):
            raise PromotionError(f"{models} has no model {name!r}; correct the name, or --models.")
        self.path = self._folder / SERVING_FILE
        if os.path.islink(self.path):
            raise PromotionError(f"{self.path} is a link; change the file that it leads to.")
        self._before = self._written = self._read()

    def promote(self, version: int, label: str, *, split: bool = False) -> Promotion:
        """Has a label name a version, which is served from then on; the rest of the file stays as it is.

        Args:
            version: Which is there.
            label: Which may be new.
            split: Whether all requests that name no version are to go to the label.

        Raises:
            PromotionError: There is no such version, or the file does not hold or cannot be written.
        """
        if version not in self._versions():
            raise PromotionError(f"{self._folder} has no version {version}; put it there first.")
        text = "{}" if self._before is None else self._before
        before = self._parsed(text)
        content: dict[str, Any] = json.loads(text)
        content["labels"] = {**(content.get("labels") or {}), label: version}
        if before.WhichOneof("versions") == "list" and version not in before.list.versions:
            content["list"]["versions"] = [*(content["list"].get("versions") or ()), version]
        if split:
            content["split"] = [{"label": label, "percent": _WHOLE}]
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        after = self._parsed(text)
        if rule := _broken(after):
            raise PromotionError(f"{self.path} does not hold: {rule}; correct it first.")
        self._write(text)
        return Promotion(before.labels.get(label), self._others(after, version))

    def put_back(self) -> None:
        """Makes the file what it was.

        Raises:
            PromotionError: It cannot be written, or was changed by somebody else meanwhile.
        """
        self._write(self._before)

    def _read(self) -> str | None:
        try:
            with open(self.path, "rb", opener=lambda path, flags: os.open(path, flags | _AT_ONCE)) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise PromotionError(f"{self.path} is no regular file; put one there.")
                content = file.read(_MOST_BYTES + 1)
            text = content.decode()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise PromotionError(f"{self.path} cannot be read: {exc}.") from exc
        if len(content) > _MOST_BYTES:
            raise PromotionError(f"{self.path} has more than {_MOST_BYTES >> 10} KiB; correct it first.")
        return text

    def _versions(self) -> set[int]:
        """Those that are there: bundles, and pipelines, which have no graph."""
        return {
            int(folder.name)
            for folder in self._folder.iterdir()
            if _VERSION.fullmatch(folder.name)
            and any(os.path.exists(folder / file) for file in ("model.onnx", "manifest.json"))
        }

    def _others(self, policy: serving_pb2.ServingPolicy, version: int) -> str | None:
        if policy.split:
            named = {_version_of(policy, share) for share in policy.split}
            return None if version in named else "by the split, which does not have it"
        there = self._versions()
        newest = max(there.intersection(policy.list.versions) or there)
        return None if version == newest else f"to version {newest}, the newest"

    def _parsed(self, text: str) -> serving_pb2.ServingPolicy:
        if not text.lstrip().startswith("{"):
            what = "no JSON object" if text.strip() else "empty"
            raise PromotionError(f"{self.path} is {what}; correct it first, or remove it.")
        try:
            return json_format.Parse(text, serving_pb2.ServingPolicy())
        except (json_format.ParseError, RecursionError) as exc:
            first_line = str(exc).splitlines()[0].rstrip(".")
            raise PromotionError(f"{self.path} does not hold: {first_line}; correct it first.") from exc

    def _write(self, text: str | None) -> None:
        """By rename, so that nobody ever reads a half, and only where nobody else has changed it; None for no file."""
        coming = self._folder / _COMING
        try:
            file = coming.open("x", encoding="utf-8")
        except FileExistsError as exc:
            raise PromotionError(
                f"{self.path} is being changed by somebody else; try again, or remove {coming} if nobody does."
            ) from exc
        except OSError as exc:
            raise PromotionError(f"{self.path} cannot be written: {exc.strerror}.") from exc
        try:
            with file:
                file.write(text or "")
                file.flush()
                os.fsync(file.fileno())
            if self._read() != self._written:
                raise PromotionError(f"{self.path} was changed by somebody else meanwhile; try again.")
            if text is None:
                self.path.unlink(missing_ok=True)
            else:
                coming.replace(self.path)
            self._written = text
        except OSError as exc:
            raise PromotionError(f"{self.path} cannot be written: {exc.strerror}.") from exc
        finally:
            coming.unlink(missing_ok=True)


def _version_of(policy: serving_pb2.ServingPolicy, share: serving_pb2.TrafficShare) -> int:
    return policy.labels.get(share.label, 0) if share.WhichOneof("target") == "label" else share.version


def _broken(policy: serving_pb2.ServingPolicy) -> str | None:
    """What servers refuse in a policy although it can be parsed, as far as a label has to do with it."""
    for label, version in policy.labels.items():
        if not LABEL.fullmatch(label) or version < 1:
            return f"a label {LABEL_RULE}, and names a version, unlike {label!r}"
    shares = [*policy.split, *([policy.shadow] if policy.HasField("shadow") else [])]
    for share in shares:
        if _version_of(policy, share) < 1:
            return f"a share names {share.label or share.version!r}, which is neither one of `labels` nor a version"
    if policy.split and sum(share.percent for share in policy.split) != _WHOLE:
        return f"`split` has not {_WHOLE} percent together"
    if policy.WhichOneof("versions") == "latest" and policy.latest < 1:
        return "`latest` is less than 1"
    named = {*policy.labels.values(), *(_version_of(policy, share) for share in shares)}
    if policy.WhichOneof("versions") == "list" and (missing := named.difference(policy.list.versions)):
        return f"`list` lacks version {min(missing)}, which labels, split or shadow name"
    return None

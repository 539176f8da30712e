"""Moves a label of a model to another version: in the file that its server goes by."""

import os
import re
import stat
from pathlib import Path

from google.protobuf import json_format
from retinue.v1 import serving_pb2

SERVING_FILE = "serving.json"
# Whoever has made it changes the file.
_COMING = f".{SERVING_FILE}.coming"
# More than servers read.
_MOST_BYTES = 64 * 1024
# Where a platform has none, it has no pipes that wait for ever either.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)

# As servers have it: no way out of the folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class PromotionError(Exception):
    """A label cannot be moved.

    Attributes:
        message: Why, and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ServingFile:
    """The serving.json of a model.

    Args:
        models: The folder of all models.
        name: The model's.

    Raises:
        PromotionError: There is no such model, or the file is none that can be changed here.
    """

    def __init__(self, models: Path, name: str) -> None:
        self._folder = models / name
        if not _NAME.fullmatch(name) or not os.path.isdir(self._folder):
            raise PromotionError(f"{models} has no model {name!r}; correct the name, or --models.")
        self._path = self._folder / SERVING_FILE
        if os.path.islink(self._path):
            raise PromotionError(f"{self._path} is a link; change the file that it leads to.")
        self._before = self._written = self._read()

    def promote(self, version: int, label: str) -> None:
        """Has a label name a version, which is served from then on; the rest of the file stays as it is.

        Raises:
            PromotionError: There is no such version, or the file does not hold or cannot be written.
        """
        # A pipeline has no graph of its own.
        files = (self._folder / str(version) / file for file in ("model.onnx", "manifest.json"))
        if not any(map(os.path.exists, files)):
            raise PromotionError(f"{self._folder} has no version {version}; put it there first.")
        try:
            policy = json_format.Parse(self._before or "{}", serving_pb2.ServingPolicy())
        except json_format.ParseError as exc:
            first_line = str(exc).splitlines()[0].rstrip(".")
            raise PromotionError(f"{self._path} does not hold: {first_line}; correct it first.") from exc
        policy.labels[label] = version
        if policy.WhichOneof("versions") == "list" and version not in policy.list.versions:
            policy.list.versions.append(version)
        self._write(json_format.MessageToJson(policy, preserving_proto_field_name=True) + "\n")

    def put_back(self) -> None:
        """Makes the file what it was.

        Raises:
            PromotionError: It cannot be written, or was changed by somebody else meanwhile.
        """
        self._write(self._before)

    def _read(self) -> str | None:
        try:
            with open(self._path, opener=lambda path, flags: os.open(path, flags | _AT_ONCE)) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise PromotionError(f"{self._path} is no regular file; put one there.")
                content = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise PromotionError(f"{self._path} cannot be read: {exc}.") from exc
        if len(content) > _MOST_BYTES:
            raise PromotionError(f"{self._path} is larger than servers read; make it smaller.")
        return content

    def _write(self, text: str | None) -> None:
        """By rename, so that nobody ever reads a half, and only where nobody else has changed it; None for no file."""
        coming = self._folder / _COMING
        try:
            file = coming.open("x")
        except FileExistsError as exc:
            raise PromotionError(
                f"{self._path} is being changed by somebody else; try again, or remove {coming} if nobody does."
            ) from exc
        except OSError as exc:
            raise PromotionError(f"{self._path} cannot be written: {exc.strerror}.") from exc
        try:
            with file:
                file.write(text or "")
                file.flush()
                os.fsync(file.fileno())
            if self._read() != self._written:
                raise PromotionError(f"{self._path} was changed by somebody else meanwhile; try again.")
            if text is None:
                self._path.unlink(missing_ok=True)
            else:
                coming.replace(self._path)
            self._written = text
        except OSError as exc:
            raise PromotionError(f"{self._path} cannot be written: {exc.strerror}.") from exc
        finally:
            coming.unlink(missing_ok=True)

"""Moves a label of a model to another version: in the file that its server goes by."""

import os
import re
from contextlib import suppress
from pathlib import Path

from google.protobuf import json_format
from retinue.v1 import serving_pb2

SERVING_FILE = "serving.json"

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
        if not _NAME.fullmatch(name) or not self._folder.is_dir():
            raise PromotionError(f"{models} has no model {name!r}; correct the name, or --models.")
        self._path = self._folder / SERVING_FILE
        if self._path.is_symlink():
            raise PromotionError(f"{self._path} is a link; change the file that it leads to.")
        self._before: str | None = None
        try:
            self._before = self._path.read_text()
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as exc:
            raise PromotionError(f"{self._path} cannot be read: {exc}.") from exc

    def promote(self, version: int, label: str) -> None:
        """Has a label name a version, which is served from then on; the rest of the file stays as it is.

        Raises:
            PromotionError: There is no such version, or the file does not hold or cannot be written.
        """
        # A pipeline has a manifest only.
        if not any((self._folder / str(version) / file).exists() for file in ("model.onnx", "manifest.json")):
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
            PromotionError: It cannot be written.
        """
        if self._before is None:
            self._path.unlink(missing_ok=True)
        else:
            self._write(self._before)

    def _write(self, text: str) -> None:
        """By rename, so that nobody ever reads a half."""
        aside = self._folder / f".{SERVING_FILE}.{os.getpid()}"
        try:
            with aside.open("x") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._path)
        except OSError as exc:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise PromotionError(f"{self._path} cannot be written: {exc.strerror}.") from exc

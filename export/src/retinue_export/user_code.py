"""Code of the user's own: found, run and asked for a network, and what it raises told in one sentence."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from retinue_export.errors import ExportError

_MODULE_NAME = "retinue_export_user_module"
_HOW_TO_NAME_IT = "write FILE.py:FUNCTION, or package.module:FUNCTION for what Python can import"


def build(target: str) -> nn.Module:
    """Runs the user's code and builds the network.

    Args:
        target: `FILE.py:NAME`, or `package.module:NAME` of an installed package or one in the working directory; NAME
            being a function or class that makes the module when called without arguments.

    Raises:
        ExportError: there is no such file, module or name, the code raises, or what it makes is no module.
    """
    where, _, name = target.rpartition(":")
    path = Path(where) if where.endswith(".py") else None
    if not name or (path is None and not all(part.isidentifier() for part in where.split("."))):
        raise ExportError(f"{target!r} does not name a function in a Python file: {_HOW_TO_NAME_IT}.")
    if path is not None and not path.is_file():
        raise ExportError(f"There is no Python file {path}.")
    with told_in_one_sentence(f"{target} cannot be built", path):
        maker = getattr(_imported(where) if path is None else _run(path), name, None)
        made = maker() if callable(maker) else None
    if not callable(maker):
        raise ExportError(f"{where} has no function `{name}`.")
    if not isinstance(made, nn.Module):
        raise ExportError(f"{target} makes a {type(made).__name__}, not a torch.nn.Module.")
    return made


def described(target: str) -> str:
    """The target as a manifest names it: without the folder it lies in."""
    where, _, name = target.rpartition(":")
    return f"{Path(where).name}:{name}"


@contextmanager
def told_in_one_sentence(what: str, path: Path | None = None) -> Iterator[None]:
    """Runs code of the user's own, which may raise anything, or leave.

    Args:
        what: the beginning of the sentence: what then cannot be done.
        path: of the code, so that the line that raised is named.

    Raises:
        ExportError: whatever was raised but KeyboardInterrupt, which stays what it is.
    """
    try:
        yield
    except (ExportError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ExportError(f"{what}: {in_one_line(error, path)}") from error


def in_one_line(error: BaseException, path: Path | None = None) -> str:
    """What was raised, and in which line of the file."""
    file = str(path.resolve()) if path is not None else None
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" (line {lines[-1]})" if lines else ""
    message = " ".join(str(error).split()).rstrip(".")
    return f"{': '.join(filter(None, (type(error).__name__, message)))}{where}."


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_MODULE_NAME, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE_NAME] = module  # where dataclasses look for the module of a class
    sys.path.insert(0, str(path.resolve().parent))  # as if Python had been started with the file
    spec.loader.exec_module(module)
    return module


def _imported(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))  # as if Python had been started with -m
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, but not what it imports
        raise ExportError(f"Python finds no module {error.name}: {_HOW_TO_NAME_IT}.") from error

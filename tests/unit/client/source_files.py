"""Sources of images to score, and what comes of them, for tests."""

import io
import json
import tarfile

from retinue_client import ImageError
from retinue_client._score.sources.columns import Columns
from retinue_client._score.sources.opening import SourceOptions, open_source


def make(folder, *names, content=b"12345"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def open_with(text, form=None, *, column=None, key=None, urls=False, all_files=False, leave_out=None):
    options = SourceOptions(form, Columns(column, key, urls), all_files=all_files, leave_out=leave_out)
    return open_source(str(text), options)


def entries(text, form=None, **options):
    return list(open_with(text, form, **options).entries(None))


def keys(*arguments, **options):
    return [entry.key for entry in entries(*arguments, **options)]


def outcomes(found):
    """Of each entry its key, and its bytes or the reason why it has none."""
    told = []
    for entry in found:
        try:
            told.append((entry.key, entry.read()))
        except ImageError as error:
            told.append((entry.key, error.reason))
    return told


def expect_to_go_on_anywhere(text, form=None, **options):
    """After each entry come those that came after it, also once its cursor was written down."""
    everything = entries(text, form, **options)
    for place, entry in enumerate(everything):
        cursor = json.loads(json.dumps(entry.cursor))
        rest = open_with(text, form, **options).entries(cursor)
        assert outcomes(rest) == outcomes(everything[place + 1 :])
    return outcomes(everything)


def member(name, kind=tarfile.REGTYPE, size=0, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def tar_file(path, *members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            if isinstance(name, tarfile.TarInfo):
                tar.addfile(name, io.BytesIO(content))
            else:
                tar.addfile(member(name, size=len(content)), io.BytesIO(content))

"""Files of class names."""

from pathlib import Path

from retinue_export.errors import ExportError
from retinue_server.bundle.manifest import LABEL_PATTERN, LABEL_RULE, MAX_MANIFEST_BYTES


def read(path: Path) -> tuple[str, ...]:
    """Reads labels, one a line.

    Raises:
        ExportError: the file cannot be read, is larger than a manifest may be, or a line is empty or no label that a
            server takes.
    """
    if not path.is_file():
        raise ExportError(f"There is no label file {path}.")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ExportError(f"{path} is not UTF-8 text.") from error
    if len(content) > MAX_MANIFEST_BYTES:
        raise ExportError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes: that is no file of labels.")
    labels = tuple(line.strip() for line in text.removesuffix("\n").split("\n"))
    if not all(labels):
        raise ExportError(f"{path} must have one label a line and no empty line.")
    for number, label in enumerate(labels, 1):
        if not LABEL_PATTERN.fullmatch(label):
            raise ExportError(f"{path}, line {number}: a label must have {LABEL_RULE}.")
    return labels

"""Files of class names."""

from pathlib import Path

from retinue_export.errors import ExportError


def read(path: Path) -> tuple[str, ...]:
    """Reads labels, one a line.

    Raises:
        ExportError: the file cannot be read, or a line is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ExportError(f"{path} is not UTF-8 text.") from error
    labels = tuple(line.strip() for line in lines)
    if not labels or not all(labels):
        raise ExportError(f"{path} must have one label a line and no empty line.")
    return labels

"""Class maps as PNG files: one an image, and an index of them."""

import io
import re
from collections.abc import Iterable

from PIL import Image

from retinue_client._errors import ResponseError
from retinue_client._masks import class_map_from_png
from retinue_client._models import ModelInfo
from retinue_client._palette import colour_table
from retinue_client._score.disk import Disk
from retinue_client._score.outputs.jsonl import JsonlOutput, JsonlWriter
from retinue_client._score.rows import Row

_MOST_CHARACTERS = 80


class MasksOutput:
    """`masks/part-NNNNNN/NNNNNNNNN-NAME.png` for each image, and `part-NNNNNN.jsonl`, whose lines say which is whose.

    A mask's level is the class id. Of models of up to 256 classes it is indexed: it shows the classes in the colours in
    which the client draws them, and NumPy reads the ids. Of others it is grey, of 16 bits. Its name begins with the
    number of the row, from 0, which no two have; what follows is what is left of the image's own name without
    characters that a file system may object to.
    """

    def __init__(self) -> None:
        self._index = JsonlOutput("masks")

    def file_of(self, part: int) -> str:
        """See `Output`: the file of the index."""
        return self._index.file_of(part)

    def open(self, disk: Disk, part: int, first_row: int) -> "MasksWriter":
        """See `Output`."""
        return MasksWriter(disk, self._index.open(disk, part, first_row), _folder_of(part), first_row)

    def keep(self, disk: Disk, part: int) -> None:
        """See `Output`: the masks first, so that the index names none that is not there."""
        disk.keep(_folder_of(part))
        self._index.keep(disk, part)

    def finish(self, disk: Disk, parts: Iterable[str], model: ModelInfo) -> None:
        """There is nothing besides."""


class MasksWriter:
    """The masks of a part, each written as it comes, and their index."""

    def __init__(self, disk: Disk, index: JsonlWriter, folder: str, first_row: int) -> None:
        self._disk = disk
        self._index = index
        self._folder = folder
        self._row = first_row
        self._names: list[str] = []
        disk.aside(folder).mkdir(parents=True, exist_ok=True)

    def write(self, rows: list[Row]) -> None:
        """See `RowWriter`."""
        for row in rows:
            if row.get("error_reason") is None:
                self._write_mask(row)
            self._row += 1
        self._index.write(rows)

    def end(self) -> None:
        """See `RowWriter`."""
        self._disk.sync_all(self._names)
        self._index.end()

    def drop(self) -> None:
        """See `RowWriter`."""
        self._index.drop()

    def _write_mask(self, row: Row) -> None:
        name = f"{self._folder}/{self._row:09}-{_harmless(row['path'])}.png"
        try:
            png = _indexed(row["class_map_png"], row["height"], row["width"])
        except ResponseError as error:
            # A row of its own words: the map that came cannot be read, and the job is not to end for it.
            for column in ("areas", "model", "version", "width", "height"):
                row[column] = None
            row |= {"error_reason": error.reason, "error_message": error.message}
            return
        with self._disk.create(name) as file:
            file.write(png)
        self._names.append(name)
        row["mask_file"] = name


def _folder_of(part: int) -> str:
    return f"masks/part-{part:06}"


def _harmless(path: str) -> str:
    """What a file may be called anywhere of what an image is called."""
    name = path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem = name.rpartition(".")[0] or name
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:_MOST_CHARACTERS] or "_"


def _indexed(png: bytes, height: int, width: int) -> bytes:
    """A class map as an indexed PNG, or as it came where it has more classes than that can have.

    Raises:
        ResponseError: It is no class map of this size.
    """
    class_map = class_map_from_png(png, height, width)
    if class_map.dtype != "uint8":
        return png
    image = Image.frombytes("P", (width, height), class_map.tobytes())
    image.putpalette(colour_table(256).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=False)
    return buffer.getvalue()

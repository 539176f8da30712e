"""Weights that lie in files beside an ONNX file: read into it, and nothing else of the machine.

Source: ONNX's docs/ExternalData.md for `location`, `offset` and `length`.
"""

from collections.abc import Iterator
from pathlib import Path

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from retinue_export.errors import ExportError

_LONGEST_SHOWN = 80
"""Characters of a location in a message."""


def embed(model: ModelProto, path: Path, max_bytes: int) -> None:
    """Reads external data into the model, in place.

    Args:
        model: as its file says it.
        path: of that file; the data must lie in its folder or below.
        max_bytes: of all the data.

    Raises:
        ExportError: data lies elsewhere, which is found out before anything is read; is missing, cut short or too
            large.
    """
    external = [
        (tensor, _Place(tensor, path))
        for tensor in _tensors(model)
        if tensor.data_location == TensorProto.EXTERNAL
    ]
    total = 0
    for _, place in external:
        place.check()
        total += place.length
    if total > max_bytes:
        raise ExportError(
            f"{path} and its external data have more than 2 GB, which no single ONNX file can hold."
        )
    for tensor, place in external:
        tensor.raw_data = place.read()
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


class _Place:
    """Where a tensor's data lies.

    Args:
        tensor: has external data.
        path: the model's file.
    """

    def __init__(self, tensor: TensorProto, path: Path) -> None:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        self._model = path
        self._tensor = tensor.name
        self._location = entries.get("location", "")
        self._file = path.parent / self._location
        try:
            self._offset = int(entries.get("offset", 0))
            self._told_length = int(entries["length"]) if "length" in entries else None
        except ValueError:
            self._offset = -1
            self._told_length = None
        self.length = 0

    def check(self) -> None:
        """Finds out how long it is.

        Raises:
            ExportError: it is not inside the model's folder, or not all there.
        """
        folder = self._model.parent.resolve()
        relative = Path(self._location)
        try:
            inside = bool(self._location) and self._file.resolve().is_relative_to(folder)
            there = inside and self._file.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # too long, with a zero byte, a link to itself
            raise ExportError(
                f"{self._model} keeps the weight `{self._tensor}` in {self._shown}, which cannot be opened: save the "
                "model again, with another location."
            ) from error
        if not inside or relative.is_absolute() or ".." in relative.parts:
            raise ExportError(
                f"{self._model} keeps the weight `{self._tensor}` in {self._shown}, outside of its folder, which "
                "is refused: copy the file itself, no link to it, beside the model and save the model with a "
                "relative location."
            )
        if not there:
            raise ExportError(
                f"{self._model} keeps weights in {self._shown} beside it, and that file is missing: copy it too."
            )
        available = self._file.stat().st_size - self._offset
        self.length = available if self._told_length is None else self._told_length
        if self._offset < 0 or not 0 <= self.length <= available:
            raise ExportError(
                f"{self._file} is too short for the weight `{self._tensor}` of {self._model.name}: copy or export "
                "both again."
            )

    @property
    def _shown(self) -> str:
        """The location for people."""
        end = "..." if len(self._location) > _LONGEST_SHOWN else ""
        return repr(self._location[:_LONGEST_SHOWN] + end)

    def read(self) -> bytes:
        """Reads it.

        Raises:
            ExportError: the file cannot be read.
        """
        try:
            with self._file.open("rb") as file:
                file.seek(self._offset)
                return file.read(self.length)
        except OSError as error:
            raise ExportError(f"{self._file} cannot be read: {error.strerror}.") from error


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        yield from attribute.tensors
        if attribute.type == AttributeProto.GRAPH:
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)

"""A network without a manifest in ONNX Runtime: what it takes and gives is what its graph says."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from retinue_server.errors import BundleError, InvalidRequestError
from retinue_server.runtime import device_failures
from retinue_server.runtime.options import session_options
from retinue_server.runtime.providers import FATAL
from retinue_server.runtime.session import Machine, explain
from retinue_server.tensors import BYTES, DTYPES, Array, TensorSpec

Tensors = Mapping[str, Array]

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": BYTES,
}
# What stands for sizes that a graph leaves open when it is run to see what it does: it may want any.
_SIZES_TRIED = (1, 8, 64, 224)
_ROWS_TRIED = 3
# Two rows that run together may be added up in another order than alone.
_TOLERANCE = 1e-3


class TensorSession:
    """A network that takes and gives any tensors. `run` may be called from several threads at once.

    Attributes:
        inputs: What it takes.
        outputs: What it gives.
        batched: Whether what it takes has a row for each of several requests, and gives each its own.
    """

    def __init__(self, path: Path, machine: Machine) -> None:
        """Loads a model.

        Args:
            path: Of model.onnx.
            machine: What runs it.

        Raises:
            BundleError: ONNX Runtime cannot read it, or it has inputs or outputs that are no tensors of numbers or
                strings.
        """
        self._path = path
        self._arena = machine.tensor_arena
        providers = machine.provider
        chain = providers.chain_on(providers.devices[0], {}) if providers.on_gpu else providers.chain
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                path,
                self._options(machine.threads.per_instance),
                providers=list(chain),
                enable_fallback=False,
            )
        except Exception as error:
            # ONNX Runtime's exceptions share no base class but Exception.
            raise BundleError(
                f"{path} cannot be loaded by ONNX Runtime: {explain(error)}; copy it again."
            ) from error
        taken, given = self._session.get_inputs(), self._session.get_outputs()
        self.inputs = [self._spec(one) for one in taken]
        self.outputs = [self._spec(one) for one in given]
        self._names = [one.name for one in given]
        self._strings = [one.name for one in self.inputs if one.datatype == BYTES]
        self.batched = _share_a_row_dimension([one.shape for one in (*taken, *given)])
        # What stands for sizes that the graph leaves open in what is made up; None where nothing can be run.
        self._open_size: int | None = None

    def run(
        self, tensors: Tensors, when_stopped: Callable[[Callable[[], None]], None] = lambda stop: None
    ) -> dict[str, Array]:
        """Runs the network.

        Args:
            tensors: By name; strings as objects of bytes, UTF-8.
            when_stopped: Told what ends the run from another thread; then ONNX Runtime raises.

        Returns:
            All outputs by name; strings as objects of str.

        Raises:
            InvalidRequestError: A string is not UTF-8, the network takes no such tensors, or needs too much memory.
            OverloadedError: It needs more memory than there is now.
            Exception: ONNX Runtime cannot run it on these.
        """
        assert self._session is not None
        options = ort.RunOptions()
        # Whoever asks is told what fails; it is their tensors' fault more often than not.
        options.log_severity_level = FATAL
        when_stopped(partial(setattr, options, "terminate", True))
        fed = {**tensors, **{name: _texts(name, tensors[name]) for name in self._strings}}
        try:
            answers = self._run(partial(self._session.run, self._names, fed, options))
            return dict(zip(self._names, answers, strict=True))
        except InvalidArgument as error:
            raise InvalidRequestError(
                f"the network cannot be run on these tensors: {explain(error)}.", reason="TENSORS_REFUSED"
            ) from None
        except Exception as error:
            raise device_failures.known(error) from error.__cause__

    def try_out(self) -> None:
        """Runs the network on made-up tensors, to see whether rows that run together are answered as if alone.

        A graph may have a dimension first that all its tensors share and that is no batch. Where it cannot be run on
        what is made up, as where it wants other sizes or values, each request runs by itself.
        """
        for size in _SIZES_TRIED:
            self._open_size = size
            try:
                together = self.run(self.typical(_ROWS_TRIED))
            except Exception:
                # Not this size: what is made up may be nothing that the network is for.
                continue
            if self.batched:
                rows = self.typical(_ROWS_TRIED)
                alone = [
                    self.run({name: rows[name][row : row + 1] for name in rows}) for row in range(_ROWS_TRIED)
                ]
                self.batched = all(
                    _rows_are(together[name], [one[name] for one in alone]) for name in together
                )
            return
        self.batched = False
        self._open_size = None

    def probe(self, when_stopped: Callable[[Callable[[], None]], None]) -> None:
        """Runs what is made up, if it can be run on that.

        Raises:
            Exception: It could, and cannot any more.
        """
        if self.runs_on_made_up:
            self.run(self.typical(1), when_stopped)

    @property
    def runs_on_made_up(self) -> bool:
        """Whether `typical` is something that it can be run on, once it was tried out."""
        return self._open_size is not None

    def typical(self, rows: int) -> dict[str, Array]:
        """Makes tensors up, of so many rows where there are such."""
        noise = np.random.default_rng(0)
        return {one.name: _made_up(one, self._shape(one, rows), noise) for one in self.inputs}

    @property
    def weights_bytes(self) -> int:
        """Of its files."""
        return sum(file.stat().st_size for file in self._path.parent.iterdir() if file.is_file())

    def close(self) -> None:
        """Gives back what it holds, once no run needs it any more."""
        self._session = None
        if self._arena is not None:
            self._arena.give_back()

    def _options(self, threads: int) -> ort.SessionOptions:
        return session_options(threads) if self._arena is None else self._arena.session_options(threads)

    def _run(self, run: Callable[[], Sequence[Array]]) -> Sequence[Array]:
        return run() if self._arena is None else self._arena.run(run)

    def _shape(self, spec: TensorSpec, rows: int) -> tuple[int, ...]:
        assert self._open_size is not None
        shape = [self._open_size if size < 0 else size for size in spec.shape]
        if self.batched:
            shape[0] = rows
        return tuple(shape)

    def _spec(self, value: Any) -> TensorSpec:
        datatype = _DATATYPES.get(value.type)
        if datatype is None:
            raise BundleError(
                f"{self._path}: '{value.name}' is {value.type}, but only tensors of numbers or strings can be served "
                "without a manifest; change the graph, or wrap it with retinue-export adopt."
            )
        return TensorSpec(
            value.name, datatype, tuple(size if isinstance(size, int) else -1 for size in value.shape)
        )


def _share_a_row_dimension(shapes: Sequence[Sequence[Any]]) -> bool:
    """Whether the first dimension of all shapes is the same one, and left open."""
    firsts = {shape[0] if shape else None for shape in shapes}
    return len(firsts) == 1 and isinstance(next(iter(firsts)), str)


def _rows_are(together: Array, alone: Sequence[Array]) -> bool:
    if together.shape[:1] != (len(alone),) or any(one.shape != (1, *together.shape[1:]) for one in alone):
        return False
    rows = np.concatenate(alone)
    if together.dtype.kind in "fc":
        return bool(np.allclose(together, rows, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True))
    return bool((together == rows).all())


def _made_up(spec: TensorSpec, shape: tuple[int, ...], noise: np.random.Generator) -> Array:
    """Numbers of [0, 1), or zeros and empty strings, which are in the range of most that they could be an index of."""
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "f":
        return noise.random(shape, np.float32).astype(dtype)
    if spec.datatype == BYTES:
        return np.full(shape, b"", object)
    return np.zeros(shape, dtype)


def _texts(name: str, strings: Array) -> Array:
    """Objects of str, as ONNX Runtime takes them, of objects of bytes."""
    try:
        texts: Array = np.array([one.decode() for one in strings.ravel()], object)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"input '{name}' has a string that is not UTF-8 ({error.reason} at byte {error.start}); encode it so.",
            reason="STRING_NOT_UTF8",
        ) from None
    return texts.reshape(strings.shape)

"""The shape of every value of a graph for one image."""

import math
import tempfile

import onnx
import onnxruntime
from onnx import checker, shape_inference

from retinue_export.errors import ExportError
from retinue_export.graph import first_line
from retinue_export.nodes import constant_of

Shape = tuple[int | None, ...]
"""The length of each dimension, None where it is not known; exporters write 0 or -1 for that too."""
_CONSTANTS_NEED_NO_INPUT = 4
"""The version of ONNX's file format from which on an initialiser need not be an input too."""
_LARGEST_KEPT = 1024
"""Numbers: shapes, axes and the like, by which shapes of other values are computed, have fewer."""


def for_one_image(model: onnx.ModelProto) -> dict[str, Shape]:
    """Infers the shapes of a graph whose inputs hold one image.

    What inference cannot follow, such as a Range over the batch, ONNX Runtime computes beforehand.

    Args:
        model: without functions of its own. Stays as it is.

    Returns:
        By the name of the value; values of unknown rank are left out.

    Raises:
        ExportError: the graph contradicts itself.
    """
    small = _of_one_image(_without_weights(model))
    shapes = _inferred(small)
    computed = {value for node in small.graph.node for value in node.output}
    if all(None not in shapes.get(value, (None,)) for value in computed):
        return shapes
    for name, shape in _inferred(_folded(small)).items():
        if None in shapes.get(name, (None,)):
            shapes[name] = shape
    return shapes


def shape_of(value: onnx.ValueInfoProto) -> Shape:
    """The shape that a graph states for a value."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in dims)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large constants are inputs of their shape: as much as inference needs, and never over 2 GB."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    kept = onnx.ModelProto(
        ir_version=max(model.ir_version, _CONSTANTS_NEED_NO_INPUT), opset_import=model.opset_import
    )
    kept.graph.name = "weights left out"
    kept.graph.input.extend(value for value in graph.input if value.name not in constants)
    kept.graph.output.extend(graph.output)
    for tensor in graph.initializer:
        _keep(kept.graph, tensor, tensor.name)
    for node in graph.node:
        value = constant_of(node)
        if value is None:
            kept.graph.node.append(node)
        else:
            _keep(kept.graph, value, node.output[0])
    return kept


def _keep(graph: onnx.GraphProto, tensor: onnx.TensorProto, name: str) -> None:
    if math.prod(tensor.dims) < _LARGEST_KEPT and tensor.data_location != onnx.TensorProto.EXTERNAL:
        kept = graph.initializer.add()
        kept.CopyFrom(tensor)
        kept.name = name
    else:
        graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))


def _inferred(model: onnx.ModelProto) -> dict[str, Shape]:
    try:
        checker.check_model(model)
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    except (checker.ValidationError, shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ExportError(f"The graph is not valid ONNX: {first_line(error)}.") from error
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = shape_of(value)
    return shapes


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with all computed that shapes and small constants allow; itself where ONNX Runtime cannot read it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/folded.onnx"
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except (
            Exception
        ):  # its exceptions share no other base; the graph may use operators that it does not have
            return model
        return onnx.load(options.optimized_model_filepath)


def _of_one_image(model: onnx.ModelProto) -> onnx.ModelProto:
    """Sets the first dimension of each input that has none to 1, and wherever else its symbol is written.

    Sizes under 1 are none.
    """
    symbols = set()
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 1:
                dim.ClearField("dim_value")
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            symbols.add(dims[0].dim_param)
            dims[0].dim_value = 1
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param in symbols:
                dim.dim_value = 1
    return model

"""What each part of an image speaks for: a classifier's head, run on the parts of the last map of features.

A network that averages this map and goes on from the mean has its head run on the features of each position alone.
Where only linear layers follow the mean, the mean of what the positions say is the network's own answer: the class
activation map. Where more follows, its dense layers act as convolutions of 1x1. A network whose first dense layer
takes the whole map has a window of the map's size moved over it, zeros around, as if that layer were a convolution.

Sources: B. Zhou et al., Learning Deep Features for Discriminative Localization, arXiv:1512.04150; P. Sermanet et al.,
OverFeat, arXiv:1312.6229; J. Long et al., Fully Convolutional Networks for Semantic Segmentation, arXiv:1411.4038.
"""

import operator
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from retinue_export.errors import ExportError
from retinue_export.graph import quiet

_aten = torch.ops.aten
_TOLERANCE = 1e-3
"""How far the head's answer on the mean may be from the network's, relative to how far its answers to two images are
from each other."""
_MOST_BYTES = 16 * 2**20
"""What the parts of one image, or the logits of all of them, may take."""
_KEEPS_ALL = frozenset(
    {
        *(_aten.flatten.using_ints, _aten.view.default, _aten.reshape.default, _aten.contiguous.default),
        *(_aten.dropout.default, _aten.dropout_.default),
    }
)
"""What may lie between a map and the layer that takes all of it."""


class NoEvidenceError(ExportError):
    """What the parts of an image speak for cannot be had from this network. The message is only the reason."""


@dataclass(frozen=True, slots=True)
class _Cutting:
    """How a map of features is cut into parts that the head takes for a map.

    Attributes:
        window: rows and columns of a part.
        repeats: how often it is repeated down and across, for heads that take maps of one size only.
        channels_last: whether the map is [N,h,w,C] instead of [N,C,h,w].
    """

    window: tuple[int, int] = (1, 1)
    repeats: tuple[int, int] = (1, 1)
    channels_last: bool = False


def attach(network: nn.Module, images: Tensor) -> nn.Module:
    """Lets a classifier say what each part of its input speaks for, too.

    Args:
        network: in evaluation mode; maps float32 [N,C,H,W] to logits [N,K].
        images: float32 [n,C,H,W], two or more, on which the head is shown to be understood.

    Returns:
        A module whose parameters have the same names. It returns logits float32 [N,K], and evidence float32 [N,h,w,K]:
        the logits of each part, h x w parts evenly over the input.

    Raises:
        NoEvidenceError: the network has no head of the kinds above.
    """
    traced = _traced(network, images)
    logits = _answer(traced.graph)
    features = next((node for node in reversed(list(_cuts(logits))) if _is_map(node)), None)
    if features is None:
        raise NoEvidenceError("its answer does not come from one map of features")
    head = _head(traced, features, logits)
    cutting = _cutting(traced, features, head, images)
    values = prod(_shape(features)[1:]) * prod(cutting.window) * prod(cutting.repeats)
    answers = prod(_sides(features, cutting)) * _shape(logits)[1]
    if 4 * max(values, answers) > _MOST_BYTES:
        raise NoEvidenceError("its last map of features has too many positions")
    return _joined(traced, features, head, cutting)


def _traced(network: nn.Module, images: Tensor) -> fx.GraphModule:
    batch = torch.export.Dim("batch", min=1, max=4096)
    try:
        with quiet():
            program = torch.export.export(network, (images,), dynamic_shapes=({0: batch},), strict=False)
    except (Exception, SystemExit) as error:  # all that a network may do that meets a symbol, no number
        raise NoEvidenceError("PyTorch's exporter cannot follow the network") from error
    traced = program.module(check_guards=False)
    assert isinstance(traced, fx.GraphModule)
    return traced


def _answer(graph: fx.Graph) -> fx.Node:
    (answer,) = graph.output_node().all_input_nodes
    assert isinstance(answer, fx.Node)
    return answer


def _input(graph: fx.Graph) -> fx.Node:
    (only,) = graph.find_nodes(op="placeholder")
    assert isinstance(only, fx.Node)
    return only


def _cuts(logits: fx.Node) -> Iterator[fx.Node]:
    """The nodes, in order, from each of which alone the logits can be computed."""
    changing: dict[fx.Node, int] = {}  # from image to image, with their places
    for node in _ancestors(logits):
        if not _is_size(node) and (
            node.op == "placeholder" or not changing.keys().isdisjoint(node.all_input_nodes)
        ):
            changing[node] = len(changing)
    needed_until = 0
    for node, place in changing.items():
        if needed_until <= place:
            yield node
        needed_until = max([needed_until, *(changing.get(user, 0) for user in node.users)])


def _ancestors(node: fx.Node, stop: fx.Node | None = None) -> list[fx.Node]:
    """What a node is computed from, in order, itself included; of `stop` nothing but itself."""
    found, waiting = {node}, [node]
    while waiting:
        one = waiting.pop()
        new = set() if one is stop else set(one.all_input_nodes) - found
        found |= new
        waiting.extend(new)
    return [one for one in node.graph.nodes if one in found]


def _shape(node: fx.Node) -> list[Any]:
    value = node.meta.get("val")
    return list(value.shape) if isinstance(value, Tensor) else []


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt)


def _is_map(node: fx.Node) -> bool:
    """Whether these are features of several positions: two of the three sides are longer than 1."""
    shape = _shape(node)
    return node.op != "placeholder" and len(shape) == 4 and sorted(shape[1:])[1] > 1


def _head(traced: fx.GraphModule, features: fx.Node, logits: fx.Node) -> fx.GraphModule:
    """What makes logits of features, for any number of images."""
    graph = fx.Graph()
    copies = {features: graph.placeholder("features")}
    batch = _shape(features)[0]
    for node in _ancestors(logits, stop=features):
        if node is features or node.op == "placeholder":
            continue
        if _is_size(node) and str(node.meta["val"]) == str(batch):
            copies[node] = graph.call_function(_aten.sym_size.int, (copies[features], 0))
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[logits])
    return fx.GraphModule(traced, graph)


@torch.no_grad()
def _cutting(traced: fx.GraphModule, features: fx.Node, head: fx.GraphModule, images: Tensor) -> _Cutting:
    """Finds the parts that the head can take for a map, and shows on images that it does."""
    logits, values = _with_features(traced, features)(images)
    for channels_last, axes in ((False, (2, 3)), (True, (1, 2))):
        mean = values.mean(axes, keepdim=True)
        for repeats in ((1, 1), tuple(values.shape[axis] for axis in axes)):
            cutting = _Cutting(repeats=repeats, channels_last=channels_last)
            if _agrees(head, _parts(mean, *astuple(cutting)), logits):
                return cutting
    if _takes_all(traced, features) and _agrees(head, values, logits):
        return _Cutting(window=tuple(values.shape[2:]))
    raise NoEvidenceError(
        "what follows its last map of features neither goes on from the mean nor begins with a dense layer over "
        "all of it"
    )


def _with_features(traced: fx.GraphModule, features: fx.Node) -> fx.GraphModule:
    """Maps images to logits and features."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(traced.graph, copies)
    graph.output((copies[_answer(traced.graph)], copies[features]))
    return fx.GraphModule(traced, graph)


def _agrees(head: fx.GraphModule, features: Tensor, logits: Tensor) -> bool:
    """Whether the head makes of these features what the network made of the images."""
    try:
        actual = head(features)
    except (RuntimeError, ValueError, IndexError):  # it takes no map of that size
        return False
    if actual.shape != logits.shape:
        return False
    spread = (logits - logits[:1]).abs().max()
    return bool((actual - logits).abs().max() < _TOLERANCE * spread)


def _takes_all(traced: fx.GraphModule, features: fx.Node) -> bool:
    """Whether the first layer after a map [N,C,h,w] has a weight for each of its values."""
    node, (channels, height, width) = features, _shape(features)[1:]
    while len(node.users) == 1:
        (node,) = node.users
        if node.target is _aten.linear.default:
            return bool(_shape(node.all_input_nodes[0])[1:] == [channels * height * width])
        if node.target is _aten.conv2d.default:
            weight = operator.attrgetter(str(node.all_input_nodes[1].target))(traced)
            return tuple(weight.shape[2:]) == (height, width) and _shape(node)[2:] == [1, 1]
        if node.target not in _KEEPS_ALL:
            return False
    return False


def _sides(features: fx.Node, cutting: _Cutting) -> tuple[int, int]:
    shape = _shape(features)[1:]
    height, width = shape[:2] if cutting.channels_last else shape[1:]
    return height, width


def _joined(traced: fx.GraphModule, features: fx.Node, head: fx.GraphModule, cutting: _Cutting) -> nn.Module:
    """The network with its head run twice: on the map, and on the parts of the map."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(traced.graph, copies)
    parts = graph.call_function(_parts, (copies[features], *astuple(cutting)))
    evidence = graph.graph_copy(head.graph, {_input(head.graph): parts})
    arranged = graph.call_function(_arranged, (evidence, *_sides(features, cutting), cutting.window))
    graph.output((copies[_answer(traced.graph)], arranged))
    return fx.GraphModule(traced, graph)


def _parts(
    features: Tensor, window: tuple[int, int], repeats: tuple[int, int], channels_last: bool
) -> Tensor:
    """Cuts maps, [N,C,h,w] or [N,h,w,C], into windows around each position, zeros beyond the edges; see `_Cutting`.

    A window of even height stands around the edges of the rows instead, of which there is one more; likewise its width.

    Returns:
        The maps of all parts, the first of them all parts of the first image, row by row.
    """
    if channels_last:
        features = features.permute(0, 3, 1, 2)
    if window == (1, 1):
        parts = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1], 1, 1)
    else:
        parts = _windows(features, *window)
    if repeats != (1, 1):
        parts = parts.repeat(1, 1, *repeats)
    return parts.permute(0, 2, 3, 1) if channels_last else parts


def _windows(features: Tensor, height: int, width: int) -> Tensor:
    """Cuts [N,C,h,w] into [N * rows * columns, C, height, width]."""
    padded = nn.functional.pad(features, (width // 2, width // 2, height // 2, height // 2))
    down = torch.arange(padded.shape[2] - height + 1).unsqueeze(1) + torch.arange(height)
    across = torch.arange(padded.shape[3] - width + 1).unsqueeze(1) + torch.arange(width)
    picked = padded.index_select(2, down.flatten()).index_select(3, across.flatten())
    apart = picked.view(-1, features.shape[1], len(down), height, len(across), width)
    return apart.permute(0, 2, 4, 1, 3, 5).reshape(-1, features.shape[1], height, width)


def _arranged(evidence: Tensor, height: int, width: int, window: tuple[int, int]) -> Tensor:
    """Brings the logits of parts, [N * rows * columns, K], to [N,height,width,K].

    What windows around edges say is averaged over the two edges of a row, or column.
    """
    rows, columns = (side + 1 - size % 2 for side, size in zip((height, width), window, strict=True))
    arranged = evidence.view(-1, rows, columns, evidence.shape[1])
    if rows > height:
        arranged = (arranged[:, 1:] + arranged[:, :-1]) / 2
    if columns > width:
        arranged = (arranged[:, :, 1:] + arranged[:, :, :-1]) / 2
    return arranged

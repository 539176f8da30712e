"""Merges batch normalisation into the convolutions before it."""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter

from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from retinue_export.user_code import told_in_one_sentence


def folded(module: nn.Module) -> nn.Module:
    """Merges batch normalisation into convolutions wherever a module's own code lets one follow the other.

    Both must run only there, and nothing else may use what the convolution gives, or read the tensors of either. Only
    what is exactly PyTorch's own is merged: classes made from it may standardise weights first, or activate afterwards.

    Returns:
        A copy in evaluation mode that computes the same up to rounding; `module` stays as it is.

    Raises:
        ExportError: the module cannot be copied.
    """
    with told_in_one_sentence(
        "The module cannot be copied, keep no locks or computed tensors as attributes of it"
    ):
        module = copy.deepcopy(module).eval()
    traces = {part: _trace(part) for part in module.modules() if part._modules}
    runs = Counter(_targets(traces, "call_module"))
    read = set(_targets(traces, "get_attr"))
    names = Counter(part for _, part in module.named_modules(remove_duplicate=False))
    for part, trace in traces.items():
        for before, after in _pairs(trace):
            ways = _way(part, before, -1), _way(part, after, 0)
            on_the_way = [part.get_submodule(name) for way in ways for name in way]
            if all(
                runs[one] == names[one] == 1 and not _has_hooks(one) and read.isdisjoint(_tensors(one))
                for one in on_the_way
            ):
                convolution_name, norm_name = (way[-1] for way in ways)
                merged = _merged(part.get_submodule(convolution_name), part.get_submodule(norm_name))
                if merged is not None:
                    part.set_submodule(convolution_name, merged)
                    part.set_submodule(norm_name, nn.Identity())
    return module


class _OwnCode(fx.Tracer):
    """Follows a module's own code, and that of no module in it."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tells that none is followed."""
        return True


def _trace(part: nn.Module) -> list[fx.Node]:
    """What a module's own code does, in order; nothing where it cannot be followed."""
    try:
        return list(_OwnCode().trace(part).nodes)
    except Exception:  # the module's own code, run on what is no tensor, may raise anything
        return []


def _targets(traces: Mapping[nn.Module, Iterable[fx.Node]], op: str) -> Iterator[nn.Module | Tensor]:
    """The modules that are run ("call_module"), or the tensors that are read ("get_attr")."""
    for part, trace in traces.items():
        yield from (attrgetter(str(node.target))(part) for node in trace if node.op == op)


def _tensors(part: nn.Module) -> list[Tensor]:
    """A module's own parameters and buffers."""
    return [*part.parameters(recurse=False), *part.buffers(recurse=False)]


def _pairs(trace: Iterable[fx.Node]) -> Iterator[tuple[str, str]]:
    """The names of modules of which the second runs on what the first gives, and nothing else does."""
    for node in trace:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1:
            yield str(before.target), str(node.target)


def _way(part: nn.Module, name: str, place: int) -> list[str]:
    """The names of a module in a part, and of what runs first (`place` 0) or last (-1) inside of a Sequential."""
    names = [name]
    while isinstance(inner := part.get_submodule(names[-1]), nn.Sequential) and len(inner):
        if type(inner).forward is not nn.Sequential.forward:
            break
        names.append(f"{names[-1]}.{list(inner._modules)[place]}")
    return names


def _has_hooks(part: nn.Module) -> bool:
    """Whether there is what changes the values that a module computes, such as weight normalisation."""
    return bool(part._forward_hooks or part._forward_pre_hooks)


def _merged(convolution: nn.Module, norm: nn.Module) -> nn.Module | None:
    """One convolution that computes what both do, or None where they are not what can be merged."""
    if type(norm) is not nn.BatchNorm2d or norm.running_mean is None:
        return None
    if type(convolution) is nn.Conv2d:
        return fuse_conv_bn_eval(convolution, norm)
    if type(convolution) is nn.ConvTranspose2d and convolution.groups == 1:
        return fuse_conv_bn_eval(convolution, norm, transpose=True)
    return None

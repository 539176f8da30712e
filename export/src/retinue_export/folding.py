"""Merges batch normalisation into the convolutions before it."""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(module: nn.Module) -> nn.Module:
    """Merges batch normalisation into convolutions wherever a module's own code lets one follow the other.

    Both must run only there, and nothing else may use what the convolution gives. Only what is exactly PyTorch's own is
    merged: classes made from it may standardise weights first, or activate afterwards.

    Returns:
        A copy in evaluation mode that computes the same up to rounding; `module` stays as it is.
    """
    module = copy.deepcopy(module).eval()
    traces = {part: _trace(part) for part in module.modules() if _has_norms(part)}
    runs = Counter(part.get_submodule(str(node.target)) for part, trace in traces.items() for node in trace)
    names = Counter(part for _, part in module.named_modules(remove_duplicate=False))
    for part, trace in traces.items():
        for convolution_name, norm_name in _pairs(trace):
            convolution, norm = part.get_submodule(convolution_name), part.get_submodule(norm_name)
            alone = all(runs[one] == names[one] == 1 for one in (convolution, norm))
            if alone and (merged := _merged(convolution, norm)) is not None:
                part.set_submodule(convolution_name, merged)
                part.set_submodule(norm_name, nn.Identity())
    return module


class _OwnCode(fx.Tracer):
    """Follows a module's own code, and that of no module in it."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tells that none is followed."""
        return True


def _trace(part: nn.Module) -> list[fx.Node]:
    """The modules that a module's own code runs, in order; none where it cannot be followed."""
    try:
        nodes = _OwnCode().trace(part).nodes
    except Exception:  # the module's own code, run on what is no tensor, may raise anything
        return []
    return [node for node in nodes if node.op == "call_module"]


def _pairs(trace: Iterable[fx.Node]) -> Iterator[tuple[str, str]]:
    """The names of modules of which the second runs on what the first gives, and nothing else does."""
    for node in trace:
        before = node.args[0] if node.args else None
        if isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1:
            yield str(before.target), str(node.target)


def _merged(convolution: nn.Module, norm: nn.Module) -> nn.Module | None:
    """One convolution that computes what both do, or None where they are not what can be merged.

    Hooks, such as those of weight normalisation, change what a module computes.
    """
    if any(part._forward_hooks or part._forward_pre_hooks for part in (convolution, norm)):
        return None
    if type(norm) is not nn.BatchNorm2d or norm.running_mean is None:
        return None
    if type(convolution) is nn.Conv2d:
        return fuse_conv_bn_eval(convolution, norm)
    if type(convolution) is nn.ConvTranspose2d and convolution.groups == 1:
        return fuse_conv_bn_eval(convolution, norm, transpose=True)
    return None


def _has_norms(part: nn.Module) -> bool:
    return any(type(inner) is nn.BatchNorm2d for inner in part.modules() if inner is not part)

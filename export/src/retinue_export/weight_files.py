"""Weights files: read without running anything that is in them, and put into the network they belong to."""

import pickle
import textwrap
import warnings
from fractions import Fraction
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from retinue_export.errors import ExportError

State = dict[str, Tensor]
"""A state dict: each parameter and buffer by its name."""

_ENTRIES = ("state_dict", "model_state_dict", "model")
"""Under which of these a training's checkpoint keeps the network's own state."""
_LONGEST_DIFFERENCE = 300
"""Characters of a message that says what does not fit; a large network has thousands of names."""


def read(path: Path) -> State:
    """Reads a state dict, alone or inside a checkpoint; nothing but tensors is accepted, so no code of the file is run.

    Args:
        path: a `.safetensors` file, or what torch.save wrote.

    Raises:
        ExportError: the file is missing, no state dict, or holds what only unpickling could read.
    """
    if not path.is_file():
        raise ExportError(f"There is no weights file {path}.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is said in one sentence
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"{path} is refused: it is no file of plain tensors, and unpickling it could run code. "
            "Save the weights again as torch.save(model.state_dict(), ...)."
        ) from error
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # a broken file decides what is raised: KeyError, struct.error, EOFError, ...
        raise ExportError(
            f"{path} cannot be read as weights saved by torch.save ({type(error).__name__}): it was cut short, or is "
            "something else, such as a TorchScript file; save them as torch.save(model.state_dict(), ...)."
        ) from error
    entries = content if isinstance(content, dict) else {}
    candidates = (entries, *(entries.get(name) for name in _ENTRIES))
    state = next((one for one in candidates if _is_state(one)), None)
    if state is None:
        raise ExportError(f"{path} holds no state dict: save it as torch.save(model.state_dict(), ...).")
    return dict(state)


def load_into(network: nn.Module, state: State, described: str) -> None:
    """Gives a network its weights.

    Args:
        network: changed in place.
        state: its weights; names may have what a wrapper puts before all of them, such as `module.`.
        described: the network, for the message.

    Raises:
        ExportError: the weights are another network's, or are no floats where the network's are.
    """
    state = _unwrapped(state, set(network.state_dict()))
    for name, own in network.named_parameters():
        if name in state and own.is_floating_point() and not state[name].is_floating_point():
            raise ExportError(
                f"The weights do not fit {described}: `{name}` is {state[name].dtype}, not {own.dtype}."
            )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        difference = " ".join(str(error).splitlines()[1:2]).strip() or str(error)
        difference = textwrap.shorten(difference, _LONGEST_DIFFERENCE, placeholder=" ...")
        raise ExportError(f"The weights do not fit {described}: {difference}") from error


def other_class_count(network: nn.Module, state: State, classes: int) -> int | None:
    """For how many classes weights are, where nothing but that keeps them from fitting a network.

    Args:
        network: the length of each of its tensors that depends on the classes is a multiple of their number.
        state: the weights.
        classes: for how many the network was built.

    Returns:
        None where they fit, or do not fit for another reason.
    """
    wanted = _without_counters(network.state_dict())
    state = _unwrapped(_without_counters(state), set(wanted))
    if set(state) != set(wanted):
        return None
    unlike = [(value, state[name]) for name, value in wanted.items() if value.shape != state[name].shape]
    counts = {Fraction(len(other) * classes, len(own)) for own, other in unlike if own.ndim and other.ndim}
    if len(counts) != 1 or any(own.shape[1:] != other.shape[1:] for own, other in unlike):
        return None
    (count,) = counts
    return int(count) if count.denominator == 1 else None


def _read_safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path} cannot be read as safetensors: {error}.") from error


def _is_state(content: object) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _without_counters(state: State) -> State:
    """Leaves out how many batches normalisation has seen, which frozen layers do not count."""
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _unwrapped(state: State, wanted: set[str]) -> State:
    """Takes off what DataParallel, torch.compile or Lightning put before every name, if the rest is what is wanted."""
    stripped = state
    while set(stripped) != wanted:
        parts = {name.partition(".")[0] for name in stripped}
        if len(parts) != 1 or not all("." in name for name in stripped):
            return state
        stripped = {name.partition(".")[2]: value for name, value in stripped.items()}
    return stripped

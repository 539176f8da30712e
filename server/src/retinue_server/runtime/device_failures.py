"""Telling failures of a GPU that outlast the batch from those of one batch."""

import re

from retinue_server.errors import DeviceError

_CODE = re.compile(r"CUDA (?:failure|error) (\d+)")

# After these, "the process must be terminated and relaunched", or there is no device any more. A lack of memory (2) is
# not among them: another batch may fit. Source: NVIDIA, CUDA Runtime API, cudaError.
_LASTING = frozenset({46, 100, 214, 220, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721})


def known(error: Exception) -> Exception:
    """A DeviceError where an error, or what it was raised from, says that the device has failed; else the error."""
    reason: BaseException | None = error
    while reason is not None:
        if any(int(code) in _LASTING for code in _CODE.findall(str(reason))):
            return DeviceError(
                "the GPU has failed; retry on another server.",
            )
        reason = reason.__cause__
    return error

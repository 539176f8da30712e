"""What an image shows, by the same way that leads to a network's input."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from retinue_server.vision.decode import open_encoded
from retinue_server.vision.resize import prepare
from retinue_server.vision.spec import InputSpec, ResizeMode

MAX_PIXELS = 1_000_000


def shown(data, spec, *, max_pixels=MAX_PIXELS):
    """The upright pixels of a file at their full size: uint8 [H,W,3], or [H,W] where the spec is grey."""
    return shown_by(lambda: open_encoded(data, max_pixels=max_pixels), spec)


def shown_by(opened: Callable[[], Image.Image], spec: InputSpec):
    """The same of what a call opens. It is opened twice: the first time tells the upright size."""

    def rendered(width, height):
        exact = replace(
            spec, width=width, height=height, resize_mode=ResizeMode.STRETCH, draft_decoding=False
        )
        out = np.full((height, width, exact.channels), 77, np.uint8)
        return prepare(opened(), exact, out), out

    frame, _ = rendered(1, 1)
    _, out = rendered(frame.original_width, frame.original_height)
    return out[..., 0] if spec.grey else out

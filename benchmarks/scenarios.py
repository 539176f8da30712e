"""Which scenarios there are: each is a module of this package with `run(quick=...)` and `table(result)`."""

from importlib import import_module
from types import ModuleType

SCENARIOS = {
    "roofline": "what the machine can do at most, and in which setting",
    "models": "three models at 1, 8 and 32 callers",
    "matrix": "every concurrency and size of requests, JPEG and raw",
    "tiny": "LeNet, one image and 64 images a request",
    "tensors": "the Open Inference Protocol beside the typed API",
    "operated": "what TLS, tokens and traces cost",
    "overload": "an open loop, from half of the capacity to ten times it",
    "startup": "until the server takes requests",
    "loading": "a network without a manifest, beside a bare session",
    "local": "a scoring job with the engine in its own process, beside the roofline",
    "memory": "when it is ready, and after many requests",
    "score": "`retinue score` beside the server's own best, and its memory up to a million rows",
    "comparison": "Retinue and other servers in turn",
    "quantisation": "INT8 against FP32",
    "gpu": "the server on a GPU, beside a bare loop and beside the CPU's answers",
}
WITHOUT_GPU = [name for name in SCENARIOS if name != "gpu"]


def load(name: str) -> ModuleType:
    """The module of a scenario; some take long to import."""
    return import_module(f"benchmarks.{name}")

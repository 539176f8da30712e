import pkgutil
import subprocess
import sys

import retinue_client


def test_the_public_api_is_this_list():
    assert retinue_client.__all__ == [
        "AsyncClient",
        "AuthenticationError",
        "CallOptions",
        "ClassArea",
        "ClassScore",
        "Classification",
        "ClassifyOptions",
        "ClassifyWith",
        "Client",
        "DeadlineExceededError",
        "DetectOptions",
        "Detection",
        "Detections",
        "Frame",
        "ImageError",
        "ImageSource",
        "InvalidRequestError",
        "Keypoint",
        "MaskFormat",
        "MaskSize",
        "ModelControlError",
        "ModelInfo",
        "ModelNotFoundError",
        "ModelState",
        "OverloadedError",
        "Priority",
        "Quality",
        "RequestTooLargeError",
        "ResponseError",
        "RetinueError",
        "Retries",
        "RleMask",
        "SegmentOptions",
        "Segmentation",
        "ServerError",
        "ServerUnreachableError",
        "Task",
        "Timing",
        "Tls",
        "UnavailableError",
        "WithRegions",
        "WrongTaskError",
        "__version__",
        "deadline",
        "remaining_seconds",
    ]
    assert all(hasattr(retinue_client, name) for name in retinue_client.__all__)


def test_every_module_but_the_command_line_is_private():
    modules = {module.name for module in pkgutil.iter_modules(retinue_client.__path__)}
    assert {name for name in modules if not name.startswith("_")} == {"cli"}


def test_importing_the_library_needs_only_its_base_dependencies():
    program = "import sys, retinue_client; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    forbidden = {
        "typer",
        "click",
        "rich",
        "pyarrow",
        "onnxruntime",
        "retinue_server",
        "torch",
        "pycocotools",
        "opentelemetry",
        "fsspec",
        "aiohttp",
        "supervision",
    }
    assert set(loaded.stdout.split()) & forbidden == set()

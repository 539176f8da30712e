"""Files that operators and callers bring: manifests, serving policies, tokens, pages of an index, plain ONNX models.

Whatever they hold, a StartupError or an InvalidRequestError says so; what is accepted can be used.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf import json_format
from retinue.v1 import manifest_pb2 as pb
from tests import colour_bundles
from tests.fuzz.target import Target

from retinue_server.bundle import manifest, plain, serving
from retinue_server.bundle.index_page import tags
from retinue_server.errors import BundleError, RetinueError, StartupError
from retinue_server.rpc import inference_requests
from retinue_server.runtime import contract
from retinue_server.tokens import Scope, TokenFile, entry, new_token

# As fsspec looks for links, in what `tags` makes of a page.
_LINK = re.compile(r"""<(a|A)\s+(?:[^>]*?\s+)?(href|HREF)=["'](?P<url>[^"']+)""")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# In memory where that is: a file is written for each input.
_MEMORY = Path("/dev/shm")
_FOLDER = tempfile.TemporaryDirectory(prefix="retinue-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None)
_ROOT = Path(_FOLDER.name)
_MODEL = _ROOT / "models" / "model"
_VERSION = _MODEL / "1"
_VERSION.mkdir(parents=True)


def _told(error: RetinueError) -> None:
    assert not _CONTROL.search(error.message), repr(error.message)
    assert len(error.message) < 4096, error.message


def _manifest(data: bytes) -> None:
    (_VERSION / manifest.MANIFEST_FILE).write_bytes(data)
    try:
        found = manifest.read(_VERSION)
    except BundleError as error:
        _told(error)
        return
    if not found.HasField("pipeline"):
        manifest.input_spec(found)
        contract.inputs(found)


def _serving_file(data: bytes) -> None:
    (_MODEL / serving.SERVING_FILE).write_bytes(data)
    try:
        _use(serving.read(_MODEL))
    except BundleError as error:
        _told(error)


def _serving_config(data: bytes) -> None:
    try:
        _use(serving.parse_config(data.decode(errors="surrogatepass")))
    except BundleError as error:
        _told(error)
    except UnicodeDecodeError:
        pass


def _use(policy: serving.ServingPolicy) -> None:
    for there in ({1}, {1, 2, 7}, set()):
        assert serving.chosen(policy, there) <= there
        refused = serving.chooses_none(policy, there), serving.unmet(policy, there, {}, there)
        for error in refused:
            if error is not None:
                _told(error)
    serving.named(policy)


def _tokens(data: bytes) -> None:
    path = _ROOT / ("tokens.json" if data[:1] == b"{" else "tokens.toml")
    path.write_bytes(data)
    path.chmod(0o600)
    try:
        tokens = TokenFile(path)
    except StartupError as error:
        return _told(error)
    assert tokens.find("somebody's") is None
    assert all(re.fullmatch("[0-9a-f]{64}", one.sha256) for one in tokens.tokens)


def _index(data: bytes) -> None:
    page = data.decode(errors="replace")
    made = tags(page)
    assert len(made) <= len(page)
    for link in _LINK.finditer(made):
        assert link["url"]


def _plain(data: bytes) -> None:
    path = _VERSION / "model.onnx"
    path.write_bytes(data)
    try:
        found = plain.describe("model", path)
    except BundleError as error:
        return _told(error)
    assert len(found.sha256) == 64


def _version(data: bytes) -> None:
    try:
        found = inference_requests.version(data.decode(errors="replace"))
    except RetinueError as error:
        assert error.message.endswith(".")  # noqa: PT017
        return
    assert isinstance(found, str) or 0 <= found < 1_000_000_000


def _manifests() -> Sequence[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        makers = (colour_bundles.classifier, colour_bundles.detector, colour_bundles.segmenter)
        made = [(maker(Path(folder)) / manifest.MANIFEST_FILE).read_bytes() for maker in makers]
    steps = [pb.PipelineStep(model="a"), pb.PipelineStep(model="b", version=2, inputs={"x": "y"})]
    pipeline = pb.ModelManifest(
        format_version=1, name="p", task=pb.TASK_TENSOR, pipeline=pb.Pipeline(steps=steps)
    )
    return [*made, json_format.MessageToJson(pipeline).encode()]


def _policies() -> Sequence[bytes]:
    return [
        b'{"latest": 2}',
        b'{"list": {"versions": [1, 2, 7]}}',
        b'{"labels": {"stable": 1, "canary": 2}, "split": [{"label": "stable", "percent": 90}, {"version": 2, '
        b'"percent": 10}], "sticky_key": "x-user"}',
        b'{"shadow": {"version": 2, "percent": 50}, "latest": 1}',
        b'{"version_policy": {"latest": {"num_versions": 1}}}',
        b'{"versionPolicy": {"specific": {"versions": [1]}}}',
        b'{"version_policy": {"all": {}}}',
    ]


def _token_files() -> Sequence[bytes]:
    toml = entry("ci", "a secret", [Scope.INFER, Scope.OBSERVE])
    return [
        toml.encode(),
        (
            toml
            + 'requests_per_second = 5.5\nmax_concurrent_requests = 3\nexpires = "2030-01-01T00:00:00Z"\n'
        ).encode(),
        b'{"tokens": [{"name": "a", "sha256": "' + b"0" * 64 + b'", "scopes": ["manage"], "expires": null}]}',
        new_token().encode(),
    ]


def _pages() -> Sequence[bytes]:
    return [
        b'<html><body><a href="model/">model/</a> <a class="x" href=\'1/\'>1</a></body></html>',
        b"<a  " + b" " * 200 + b'href="x">',
        b"<a <a <a <a >>>",
    ]


def _plain_graphs() -> Sequence[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        colour = (colour_bundles.classifier(Path(folder)) / "model.onnx").read_bytes()
    elsewhere = onnx.load_model_from_string(colour)
    weights = elsewhere.graph.initializer.add(name="w", data_type=1, dims=[1], data_location=1)
    weights.external_data.add(key="location", value="../w.bin")
    return [colour, elsewhere.SerializeToString()]


TARGETS = (
    Target("manifest", _manifest, _manifests),
    Target("serving-file", _serving_file, _policies),
    Target("serving-config", _serving_config, _policies),
    Target("tokens", _tokens, _token_files),
    Target("index-page", _index, _pages, max_bytes=65_536),
    Target("plain-onnx", _plain, _plain_graphs),
    Target("version", _version, lambda: [b"1", b"", b"stable", b"999999999"], max_bytes=256),
)

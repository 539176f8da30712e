"""A web server's indices of folders are read as folders are."""

import threading
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests import colour_bundles, plain_models

from retinue_server.bundle.mirror import Mirror
from retinue_server.bundle.remote import RemoteModels
from retinue_server.bundle.repository import scan
from retinue_server.errors import MirrorError


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and fails for what is named in its server's `broken`."""

    def do_GET(self) -> None:
        if not self._breaks():
            super().do_GET()

    def do_HEAD(self) -> None:
        if not self._breaks():
            super().do_HEAD()

    def log_message(self, *_: Any) -> None:
        pass

    def _breaks(self) -> bool:
        broken = self.path in self.server.broken  # type: ignore[attr-defined]
        if broken:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
        return broken


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the web server has."""
    folder = tmp_path / "web"
    folder.mkdir()
    return folder


@pytest.fixture
def web(folder: Path) -> Iterator[ThreadingHTTPServer]:
    """A web server with indices of folders."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.broken = set()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def mirror(web: ThreadingHTTPServer, tmp_path: Path) -> Mirror:
    return Mirror(RemoteModels(f"http://127.0.0.1:{web.server_port}/models", {}), tmp_path / "mirror")


def here(mirror: Mirror) -> list[tuple[str, int]]:
    return [(bundle.name, bundle.version) for bundle in scan(mirror.models)]


def test_bundles_come_and_go_with_what_the_index_names(mirror: Mirror, folder: Path) -> None:
    colour_bundles.classifier(folder / "models", "a", 1)
    colour_bundles.classifier(folder / "models", "a", 12)
    (folder / "models" / "a" / "12" / "notes & more.txt").write_text("")
    (folder / "models" / "notes").mkdir()
    (folder / "models" / "README").write_text("")
    mirror.look()
    assert here(mirror) == [("a", 1), ("a", 12)]
    assert scan(mirror.models)[0].read().name == "a"
    (folder / "models" / "a" / "12").rename(folder / "gone")
    mirror.look()
    assert here(mirror) == [("a", 1)]


def test_names_are_read_as_they_are_written_in_an_index(mirror: Mirror, folder: Path) -> None:
    model = plain_models.outside(folder / "models").parent
    weights = model / "weights.bin"
    weights.rename(model / "all weights, ü%2F.bin")
    plain_models.relocated(model / "model.onnx", "all weights, ü%2F.bin")
    for name in ("..%2f..%2fescaped", "%2e%2e", "back\\slash"):
        (model / name).write_bytes(b"")
    assert mirror.look()
    assert not mirror.look()
    copied = mirror.models / "outside" / "1"
    assert (copied / "all weights, ü%2F.bin").exists()
    # What is a strange name there is the same strange name here, and nothing more.
    assert {path.parent for path in mirror.models.parent.rglob("*escaped*")} <= {copied}


def test_a_server_that_fails_takes_no_model_away(
    mirror: Mirror, folder: Path, web: ThreadingHTTPServer
) -> None:
    colour_bundles.classifier(folder / "models", "a", 1)
    mirror.look()
    for broken in ("/models/", "/models/a/", "/models/a/1/", "/models/a/1/model.onnx"):
        web.broken = {broken}  # type: ignore[attr-defined]
        with pytest.raises(MirrorError, match="cannot be listed"):
            mirror.look()
        assert here(mirror) == [("a", 1)]
    web.broken = set()  # type: ignore[attr-defined]
    # A page without links may be of a server that has something to say.
    (folder / "models" / "index.html").write_text("<p>Be right back.</p>")
    with pytest.raises(MirrorError, match="no link on that page"):
        mirror.look()
    assert here(mirror) == [("a", 1)]


def test_an_address_without_anything_is_not_found(web: ThreadingHTTPServer) -> None:
    address = f"http://127.0.0.1:{web.server_port}/nowhere"
    with pytest.raises(MirrorError) as refused:
        RemoteModels(address, {}).listing()
    assert f"the models at '{address}' cannot be listed: 404, not found; check" in refused.value.message


def test_a_server_that_is_not_there_is_named_without_a_word_of_tls() -> None:
    with pytest.raises(
        MirrorError, match=r"cannot be listed: Cannot connect to host 127\.0\.0\.1:1 \["
    ) as refused:
        RemoteModels("http://127.0.0.1:1/models", {}).listing()
    assert "ssl" not in refused.value.message

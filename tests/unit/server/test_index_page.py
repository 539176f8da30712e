"""What a web server says in place of an index of folders neither fills the memory nor holds up other threads."""

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fsspec.implementations.http import ex as links

from retinue_server.bundle.index_page import tags
from retinue_server.bundle.remote import RemoteModels
from retinue_server.errors import MirrorError


class Handler(BaseHTTPRequestHandler):
    """Sends a page that ends only when its reader leaves."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        line = b"<a href='a/'>a</a>" * 100_000
        if self.path == "/packed/":
            line = gzip.compress(line)
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        try:
            while True:
                self.wfile.write(line)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("page", ["plain", "packed"])
def test_a_page_without_end_is_no_index(page: str, web: ThreadingHTTPServer) -> None:
    models = RemoteModels(f"http://127.0.0.1:{web.server_port}/{page}", {})
    with pytest.raises(MirrorError, match="cannot be listed"):
        models.listing()


@pytest.mark.parametrize(
    "page",
    ["<a" + " " * 100_000 + ">", "<a " * 100_000, "<a " * 100_000 + ">", ("<a" + " x" * 1000 + ">") * 100],
)
def test_links_are_found_in_time_that_grows_with_the_page(page: str) -> None:
    # As they come, the first three take hours.
    assert links.findall(tags(page)) == []


def test_links_of_an_index_are_found() -> None:
    page = '<pre>\n<a href="a/">a</a>  1 < 2\n<A\n class="x"\n HREF="b%20c/">b c</A> 5 > 3 <a href="d/">d</a>'
    assert [link[2] for link in links.findall(tags(page))] == ["a/", "b%20c/", "d/"]

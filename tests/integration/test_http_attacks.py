"""What is sent over HTTP to harm is refused or cut off, leaves nothing behind, and harms nobody else."""

import gzip
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import httpx
import pytest
from tests import colour_bundles, odd_bundles, pictures
from tests.busy import SLOW_MODEL, engine_held
from tests.calls import connected
from tests.http_target import CLASSIFY, RED, Target, head, reply
from tests.metrics_page import wait_until, waiting_images
from tests.server_process import ServerProcess, running_server

_MIB = 1 << 20
_MOST_BYTES = 4 * _MIB
_IN_FLIGHT_BYTES = 16 * _MIB
_MOST_CALLS = 64
_INFER = "/v2/models/colour-classifier/infer"


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two front-ends"])
def attacked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("attacked")
    colour_bundles.classifier(models)
    colour_bundles.segmenter(models)
    odd_bundles.slow_classifier(models)
    limits = (
        *("--instances", "1", "--http-names", "server", "--max-concurrent-requests", str(_MOST_CALLS)),
        *("--max-request-bytes", str(_MOST_BYTES), "--max-bytes-in-flight", str(_IN_FLIGHT_BYTES)),
    )
    with running_server(models, *limits, "--workers", str(request.param)) as server:
        yield server


@pytest.fixture
def target(attacked: ServerProcess) -> Iterator[Target]:
    """The server, which answers, has logged nothing and holds no more than before when the test is over."""
    made = Target(attacked)
    with made.client:
        assert made.answers()
        before = attacked.memory_bytes()
        yield made
        assert made.answers()
    # Nothing that a caller does is worth a line.
    assert not [event for event in attacked.events if event["level"] in ("warning", "error", "critical")]
    assert not [line for line in attacked.stderr_lines if "Traceback" in line]
    assert attacked.memory_bytes() - before < 100 * _MIB


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head(CLASSIFY, f"Content-Length: {10**12}") + b"x", b"400"),
        (head(CLASSIFY, "Content-Length: " + "9" * 5000) + b"x", b"400"),
        (head(CLASSIFY, "Content-Length: -1") + b"x", b"400"),
        (head(CLASSIFY, "Content-Length: 1", "Content-Length: 2") + b"xx", b"400"),
        (head(CLASSIFY, "Content-Length: 1") + b"x" * 1000, b"400"),
        (head(CLASSIFY, "Transfer-Encoding: chunked") + b"zz\r\n\r\n", b"400"),
        (head(CLASSIFY, "Transfer-Encoding: chunked") + b"f" * 40 + b"\r\nx", b"400"),
        (head(CLASSIFY, "Transfer-Encoding: chunked") + b"1\r\nx\r\nzz\r\n", b"400"),
        (head(CLASSIFY, "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", b"400"),
        (head(CLASSIFY, "Transfer-Encoding: chunked", f"Content-Length: {10**12}") + b"0\r\n\r\n", b"400"),
        (head(CLASSIFY, *[f"x{number}: y" for number in range(20_000)]), b"400"),
        (head(CLASSIFY, "x: " + "y" * 200_000), b"400"),
        (b"GET /" + b"x" * 200_000, b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"404"),
        (
            head("/v2", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: eA==", verb="GET"),
            b"200",
        ),
        (head("/v2", verb="CONNECT"), b"405"),
        *[
            (head(path, "Transfer-Encoding: chunked") + b"zz\r\n", b"400")
            for path in ("/livez", "/metrics", "/ui/", "/nowhere")
        ],
    ],
    ids=[
        *("oversized", "digits", "negative", "two lengths", "lying short", "no chunk", "huge chunk"),
        *("chunk cut off", "packed chunks", "chunks and a length", "many headers", "long header"),
        *("long path", "TLS", "HTTP/2", "upgrade", "tunnel"),
        *("no chunk for a probe", "no chunk for metrics", "no chunk for the page", "no chunk for nobody"),
    ],
)
def test_a_request_that_is_none_is_refused(data: bytes, status: bytes, target: Target) -> None:
    told = target.send(data)
    # Whoever still sends may find the connection closed before the reply.
    assert told.startswith(b"HTTP/1.1 " + status) or (not told and len(data) > 60_000)


def test_a_body_shorter_than_declared_is_never_answered(target: Target) -> None:
    assert target.send(head(CLASSIFY, "Content-Length: 100") + b"short", close=True) == b""


@pytest.mark.parametrize("path", [CLASSIFY, _INFER])
def test_a_body_without_an_end_is_refused_at_the_limit(path: str, target: Target) -> None:
    with target.connect() as connection:
        connection.sendall(head(path, "Transfer-Encoding: chunked"))
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        for _ in range(_MOST_BYTES // 0x10000 + 1):
            connection.sendall(chunk)
        told = reply(connection)
        assert b'"reason":"REQUEST_TOO_LARGE"' in told
        # What comes after the reply is thrown away.
        for _ in range(200):
            connection.sendall(chunk)
        connection.sendall(b"0\r\n\r\n" + head("/v2", verb="GET"))
        assert b'"name":"retinue"' in reply(connection)


def test_many_requests_in_one_go_are_answered_one_after_the_other(target: Target) -> None:
    with target.connect() as connection:
        one = head(CLASSIFY, f"Content-Length: {len(RED)}") + RED
        last = head("/v2", "Connection: close", verb="GET")
        connection.sendall(one * 100 + last)
        told = b"".join(iter(lambda: connection.recv(65536), b""))
    assert told.count(b"HTTP/1.1 200 OK") == 101
    assert told.count(b'"label":"red","score":1.0') == 100


def _cut(connection: socket.socket, *, reset: bool) -> None:
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_connections_cut_while_sending_leave_nothing_behind(reset: bool, target: Target) -> None:
    """So often that calls and bytes, of which only so many are taken, would run out."""
    for _ in range(2 * _MOST_CALLS):
        with target.connect() as connection:
            connection.sendall(head(CLASSIFY, f"Content-Length: {_MOST_BYTES}") + bytes(300_000))
            _cut(connection, reset=reset)
    wait_until(target.answers, "room for a call")


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_connections_cut_while_waiting_leave_nothing_behind(reset: bool, target: Target) -> None:
    cuts = 16
    server = target.server
    request = head(f"/v1/models/{SLOW_MODEL}:classify", f"Content-Length: {len(RED)}") + RED
    before = target.counted("CANCELLED")
    with connected(server.grpc_address) as grpc, engine_held(grpc, server, waiting=2) as held:
        already = waiting_images(server.http_url, SLOW_MODEL)
        connections = []
        for _ in range(cuts):
            connections.append(target.connect())
            connections[-1].sendall(request)
        wait_until(
            lambda: waiting_images(server.http_url, SLOW_MODEL) >= already + cuts or held.done(),
            "the requests to wait",
        )
        for made in connections:
            _cut(made, reset=reset)
        wait_until(lambda: target.counted("CANCELLED") >= before + cuts, "the calls to be cancelled")
        assert not held.done(), "the engine was held for too short a time for this test to say anything"
    wait_until(lambda: waiting_images(server.http_url, SLOW_MODEL) == 0, "an empty queue")


def test_replies_that_are_not_read_take_room_until_they_are_or_the_caller_leaves(target: Target) -> None:
    side = 2100
    large = pictures.png(pictures.BLUE, side, side)
    path = "/v1/models/colour-segmenter:segment?mask_format=raw"
    request = head(path, f"Content-Length: {len(large)}") + large
    with target.connect(receive_bytes=4096) as first, target.connect(receive_bytes=4096) as second:
        for connection in (first, second):
            connection.sendall(request)
            # Its first byte has come, and the rest does not fit into what is sent unread.
            assert connection.recv(13, socket.MSG_WAITALL) == b"HTTP/1.1 200 "
        told = target.post(path, large)
        assert (told.status_code, told.json()["reason"]) == (429, "TOO_MANY_BYTES_IN_FLIGHT")
        assert int(told.headers["retry-after"]) >= 1
        assert target.answers()
        _cut(second, reset=True)
        assert len(reply(first)) > side * side
    wait_until(lambda: target.post(path, large).status_code == 200, "the room to be free")


def test_uploads_of_the_largest_size_stay_within_what_may_be_in_flight(target: Target) -> None:
    """All at once, each as large as may be: those that have no room are told so, and memory stays bounded."""
    before = target.server.peak_memory_bytes()
    content = bytes(_MOST_BYTES - 1000)
    statuses: Counter[int] = Counter()

    def upload() -> None:
        try:
            statuses[target.post(CLASSIFY, content).status_code] += 1
        except httpx.HTTPError:
            statuses[0] += 1

    _all_at_once([upload] * 40)
    assert statuses.total() == 40
    assert statuses.keys() <= {400, 429, 0}, statuses
    assert statuses[429]
    assert target.server.peak_memory_bytes() - before < 8 * _IN_FLIGHT_BYTES


def _all_at_once(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("path", [CLASSIFY, _INFER])
def test_a_small_body_that_unpacks_to_a_large_one_is_refused(path: str, target: Target) -> None:
    before = target.server.peak_memory_bytes()
    bomb = gzip.compress(bytes(128 * _MIB), 1)
    assert len(bomb) < _MOST_BYTES
    assert target.reason(path, bomb, Content_Encoding="gzip") == "REQUEST_TOO_LARGE"
    assert (
        target.reason(path, gzip.compress(bomb), Content_Encoding="gzip, gzip") == "CONTENT_ENCODING_UNKNOWN"
    )
    assert target.server.peak_memory_bytes() - before < 50 * _MIB


_JSON_BYTES = _MOST_BYTES - 1000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * _JSON_BYTES,
        b'{"inputs":' * (_JSON_BYTES // 10),
        b'{"inputs":[' + b"1," * (_JSON_BYTES // 2 - 100) + b"1]}",
        b'{"inputs":[],"outputs":[' + b"{}," * (_JSON_BYTES // 3 - 100) + b"{}]}",
        b'{"inputs":[{"name":"images","shape":[1],"datatype":"UINT8","data":['
        + b"[]," * (_JSON_BYTES // 3 - 100)
        + b"[]]}]}",
        b'{"inputs":[],"parameters":{'
        + b",".join(b'"%d":[]' % number for number in range(_JSON_BYTES // 12))
        + b"}}",
        b'{"inputs":[],"id":' + b"1" * (_JSON_BYTES - 100) + b"}",
    ],
    ids=["brackets", "objects", "numbers", "outputs", "rows", "parameters", "digits"],
)
def test_json_that_would_take_many_times_its_size_is_refused(body: bytes, target: Target) -> None:
    before = target.server.peak_memory_bytes()
    assert target.reason(_INFER, body) in ("JSON_INVALID", "INPUT_MISMATCH", "TENSOR_SIZE_MISMATCH")
    assert target.server.peak_memory_bytes() - before < 300 * _MIB


_PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n1\r\n'


@pytest.mark.parametrize(
    "form",
    [
        _PART % b"top_k" * 50_000 + b"--b--",
        _PART % b'image"; filename="a' * 50_000 + b"--b--",
        b"--b\r\n" + b"a: b\r\n" * 500_000,
        b"--b\r\nContent-Disposition: " + b"x" * 3_000_000,
        b"--b\r\n" + b"x" * 3_000_000,
        b"\r\n--" * 500_000,
        b"x" * 3_000_000,
        _PART % (b"x" * 5000) + b"--b--",
        (_PART % b"top_k").replace(b"1\r\n", b"1" * 3_000_000 + b"\r\n") + b"--b--",
        b"--b\r\n\r\n--b\r\n",
        b"",
    ],
    ids=[
        *("texts", "files", "headers", "header", "name of a header", "almost boundaries", "no boundary"),
        *("name", "text", "no headers", "nothing"),
    ],
)
def test_forms_that_are_none_are_refused(form: bytes, target: Target) -> None:
    reason = target.reason(CLASSIFY, form, Content_Type="multipart/form-data; boundary=b")
    assert reason in ("MULTIPART_INVALID", "OPTION_INVALID", "OPTION_UNKNOWN", "TOO_MANY_IMAGES")


@pytest.mark.parametrize(
    "charset", ["punycode", "undefined", "idna", "unicode_escape", "utf-7", "hex", "base64", "x" * 1000]
)
def test_charsets_of_forms_mean_nothing(charset: str, target: Target) -> None:
    form = _PART % b"top_k" + b"--b--"
    content_type = f"multipart/form-data; boundary=b; charset={charset}"
    assert target.reason(CLASSIFY, form, Content_Type=content_type) == "NO_IMAGES"


def test_a_query_of_thousands_of_options_is_refused(target: Target) -> None:
    query = "&".join(f"{number}=" for number in range(8000))
    assert target.reason(f"{CLASSIFY}?{query}", RED) == "OPTION_UNKNOWN"


@pytest.mark.parametrize(
    "name",
    [
        *("%2e%2e", "..", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "%00", "%ff", "%ed%a0%80", "%0d%0aX:%20y"),
        *("%F0%9F%90%88", "%", "a%", "x" * 30_000, "%25%32%65", "~", "%5c..%5c"),
    ],
)
def test_names_from_elsewhere_lead_nowhere(name: str, target: Target) -> None:
    for verb, path in (
        ("GET", f"/v2/models/{name}"),
        ("GET", f"/v2/models/{name}/versions/{name}/config"),
        ("POST", f"/v2/models/{name}/infer"),
        ("POST", f"/v2/repository/models/{name}/load"),
        ("POST", f"/v2/systemsharedmemory/region/{name}/register"),
        ("GET", f"/v1/models/{name}"),
        ("POST", f"/v1/models/{name}/versions/1:classify"),
    ):
        told = target.send(head(path, "Content-Length: 0", verb=verb))
        status = int(told.split(b" ", 2)[1])
        assert 400 <= status < 500 or status == 501, told
        error = json.loads(told.partition(b"\r\n\r\n")[2])["error"]
        assert len(error) < 700
        assert b"X:" not in told.partition(b"\r\n\r\n")[0]


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "http://elsewhere",
            "null",
            "",
            "http://",
            "http://[",
            "http://server.elsewhere",
            "http://server:80",
        ),
        *("http://user@server", "http://server/", "server", "file://", "\xff\xfe"),
    ],
)
def test_pages_of_other_origins_may_not_call(origin: str, target: Target) -> None:
    for path in (CLASSIFY, _INFER, "/v2/repository/models/a/unload"):
        told = target.send(head(path, f"Origin: {origin}", "Content-Length: 0"))
        assert told.startswith(b"HTTP/1.1 403 ")
        assert b"access-control" not in told.lower()


@pytest.mark.parametrize("address", ["\xff\xfe", "a b", "192.0.2.1, 192.0.2.2", "unix:", "x" * 5000])
def test_whoever_says_to_pass_on_anothers_request_is_not_believed(address: str, target: Target) -> None:
    told = target.send(
        head(
            CLASSIFY,
            f"Content-Length: {len(RED)}",
            f"X-Forwarded-For: {address}",
            "X-Forwarded-Proto: \xff",
        )
        + RED
    )
    assert told.startswith(b"HTTP/1.1 200 ")


def test_as_many_calls_as_are_taken_may_wait_and_no_more(target: Target) -> None:
    """Bodies that never come hold calls; whoever closes gives them back."""
    waiting = []
    for _ in range(_MOST_CALLS):
        made = target.connect()
        made.sendall(head(CLASSIFY, "Content-Length: 1000", "Expect: 100-continue"))
        assert made.recv(100).startswith(b"HTTP/1.1 100 ")
        waiting.append(made)
    assert target.reason(CLASSIFY, RED) == "TOO_MANY_CALLS"
    for made in waiting:
        made.close()
    wait_until(target.answers, "room for a call")

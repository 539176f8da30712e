"""Forms are taken apart as browsers, curl and others make them, and in no other way."""

import httpx
import pytest
from tests.unit.server.refusals import refusal

from retinue_server.http.multipart import Part, boundary, parts

_FILE = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'


def read(body: bytes, of: bytes = b"b", most: int = 10) -> list[Part]:
    return list(parts(body, of, most))


def one(head: bytes = _FILE, content: bytes = b"content") -> bytes:
    return b"--b\r\n" + head + content + b"\r\n--b--\r\n"


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data;boundary="a b c";charset=utf-8', b"a b c"),
        ("multipart/form-data; charset=punycode; boundary=abc", b"abc"),
        ("multipart/form-data; boundary=" + "x" * 70, b"x" * 70),
        ("image/png", None),
        ("", None),
        ("multipart/form-data-not; boundary=abc", None),
        ("multipart/mixed; boundary=abc", None),
    ],
)
def test_the_boundary_is_in_the_content_type(content_type: str, expected: bytes | None) -> None:
    assert boundary(content_type) == expected


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "x" * 71,
        'multipart/form-data; boundary="a\r\nb"',
        "multipart/form-data; boundary*=utf-8''abc",
    ],
)
def test_a_form_without_a_boundary_that_may_be_is_refused(content_type: str) -> None:
    refusal("MULTIPART_INVALID", lambda: boundary(content_type))


def test_a_form_of_another_library_is_read() -> None:
    contents = [b"", b"\r\n", b"\r\n--", b"\r\n--x", bytes(range(256)) * 3, b"--b--"]
    files = [("image", (f"file {number}.png", content)) for number, content in enumerate(contents)]
    request = httpx.Request(
        "POST", "http://server", files=files, data={"top_k": "3", "classes": ["grün", "b"]}
    )
    of = boundary(request.headers["content-type"])
    assert of is not None
    told = read(request.read(), of)
    assert [part.content for part in told if part.is_file] == contents
    assert {part.name for part in told if part.is_file} == {"image"}
    assert [(part.name, part.content.decode()) for part in told if not part.is_file] == [
        *(("top_k", "3"), ("classes", "grün"), ("classes", "b"))
    ]


@pytest.mark.parametrize(
    "body",
    [
        one(),
        b"\r\n" + one(),
        b"a preamble\r\n" + one(),
        one() + b"an epilogue\r\n--b\r\n",
        one()[:-2],
        one().replace(b"--b\r\n", b"--b \t\r\n"),
        one(b"Content-Type: image/png\r\nX: y\r\n" + _FILE),
        one(_FILE.replace(b"Content-Disposition", b"content-disposition")),
        one(_FILE.replace(b'"image"', b"image")),
    ],
    ids=["plain", "line", "preamble", "epilogue", "no end of line", "padding", "headers", "case", "token"],
)
def test_forms_may_be_written_in_these_ways(body: bytes) -> None:
    assert read(body) == [Part("image", b"content", is_file=True)]


def test_a_form_may_have_no_parts() -> None:
    assert read(b"--b--\r\n") == []


def test_names_may_be_anything() -> None:
    (part,) = read(one(b'Content-Disposition: form-data; name="a\xff\\"\x00"; filename=""\r\n\r\n'))
    assert part == Part('a\ufffd"\x00', b"content", is_file=True)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "does not begin"),
        (b"garbage", "does not begin"),
        (b"x" * 100_000, "does not begin"),
        (b"\r\n" * 50_000, "does not begin"),
        (one().replace(b"\r\n--b--", b""), "does not end"),
        (b"--b", "ends too early"),
        (b"--b\r\n", "do not end"),
        (b"--bx\r\n" + _FILE, "follows a boundary"),
        (one(content=b"\r\n--bx\r\n"), "follows a boundary"),
        (one(b"X: y\r\n\r\n"), "no Content-Disposition"),
        (one(b"\r\n"), "no Content-Disposition"),
        (one(b"Content-Disposition: form-data\r\n\r\n"), "no Content-Disposition"),
        (one(b'Content-Disposition: attachment; name="a"\r\n\r\n'), "no Content-Disposition"),
        (one(b"Content-Disposition: form-data; name*=utf-8''a\r\n\r\n"), "no Content-Disposition"),
        (one(b"a: b\r\n" * 10_000 + _FILE), "do not end within"),
        (one(b"a: " + b"x" * 10_000 + b"\r\n" + _FILE), "do not end within"),
        (one(b"x" * 10_000), "do not end within"),
    ],
)
def test_what_is_no_form_is_refused(body: bytes, says: str) -> None:
    message = refusal("MULTIPART_INVALID", lambda: read(body))
    assert says in message
    assert len(message) < 300


def test_so_many_parts_are_taken_and_no_more() -> None:
    ten = (b"--b\r\n" + _FILE + b"\r\n") * 10
    assert len(read(ten + b"--b--")) == 10
    refusal("MULTIPART_INVALID", lambda: read(ten + ten + b"--b--"))
    refusal("MULTIPART_INVALID", lambda: read((b"--b\r\n" + _FILE + b"\r\n") * 11 + b"--b--"))

"""What `retinue score` says of a job in the end, of a real server's answers and in a real browser."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests import chromium, pictures
from tests.server_process import ServerProcess

_HOSTILE_NAME = "<img src=x onerror=alert(1)>.png"
_MODELS = {"classify": "mobilenet-v2", "detect": "fashion-detector", "segment": "fashion-segmenter"}
_PAPER = {"light": (251, 250, 246), "dark": (21, 21, 19)}
Make = Callable[[str], tuple[Path, list[dict[str, Any]]]]

# Opens the report in a frame as wide as a phone and says what is in it, which pages of the same origin may.
_PHONE = """<!doctype html><iframe src="report.html" width="390" height="800"></iframe><pre></pre><script>
onload = () => {
  const page = frames[0].document, pictures = [...page.images];
  document.querySelector("pre").textContent = JSON.stringify({
    width: page.documentElement.scrollWidth,
    heading: page.querySelector("h1").textContent,
    scripts: page.scripts.length,
    pictures: pictures.length,
    shown: pictures.filter(one => one.naturalWidth > 0).length,
    background: frames[0].getComputedStyle(page.body).backgroundColor,
    bar: page.querySelector(".bar rect").getBoundingClientRect().width,
  });
};
</script>"""


@pytest.fixture(scope="module")
def make(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Scores a folder; gives that of the results, and what the job said of its progress."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(40):
        label = ("red", "green", "blue")[index % 3]
        (folder / f"{index:02}-{label}.png").write_bytes(pictures.png(pictures.COLOURS[label], 60, 40))
    (folder / _HOSTILE_NAME).write_bytes(b"no image")

    @functools.cache
    def made(task: str) -> tuple[Path, list[dict[str, Any]]]:
        results = tmp_path_factory.mktemp(task)
        program = str(Path(sys.executable).parent / "retinue")
        command = [program, "score", str(folder), "--out", str(results / "results.parquet")]
        done = subprocess.run(
            [*command, "--task", task, "--model", _MODELS[task], "--json-progress"],
            env={**os.environ, "RETINUE_SERVER": server.grpc_address},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        return results, [json.loads(line) for line in done.stderr.splitlines()]

    return made


def _only(folder: Path, ending: str) -> Path:
    (found,) = folder.rglob(f"*{ending}")
    return found


@pytest.mark.parametrize("task", _MODELS)
def test_progress_as_json_ends_with_the_summary_that_is_written(make: Make, task: str) -> None:
    results, said = make(task)
    (failure,) = [one for one in said if one["event"] == "failure"]
    assert (failure["path"], failure["reason"]) == (_HOSTILE_NAME, "IMAGE_UNDECODABLE")
    summary = json.loads(_only(results, "summary.json").read_text(encoding="utf-8"))
    assert said[-1] == {"event": "summary", **summary}
    assert (summary["images"], summary["scored"], summary["failed"]) == (41, 40, 1)
    assert summary["task"] == task
    assert summary["slowest_stage"] in summary["stages_ms"]
    assert sum(entry["count"] for entry in summary["classes"]) >= (40 if task != "detect" else 0)


@pytest.mark.slow
@pytest.mark.parametrize("task", _MODELS)
def test_the_report_shows_a_phone_everything_without_scrolling_sideways(
    make: Make, task: str, tmp_path: Path
) -> None:
    results, _ = make(task)
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "report.html").write_bytes(_only(results, "report.html").read_bytes())
    (pages / "phone.html").write_text(_PHONE, encoding="utf-8")
    with _served(pages) as (url, asked):
        shown = chromium.dom(f"{url}/phone.html", tmp_path / "profile")
    found = re.search("<pre>(.*)</pre>", shown)
    assert found is not None
    page = json.loads(found[1])
    assert page["heading"].startswith("41 images, ")
    assert page["width"] <= 390
    assert page["pictures"] == page["shown"] >= 12
    assert page["scripts"] == 0
    assert page["bar"] > 1
    # The policy lets the style sheet in.
    assert page["background"] in {f"rgb{colour}" for colour in _PAPER.values()}
    assert set(asked) <= {"/phone.html", "/report.html", "/favicon.ico"}
    assert asked.count("/favicon.ico") <= 1  # of the page around it


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_light_or_dark_as_its_reader_likes(make: Make, scheme: str, tmp_path: Path) -> None:
    results, _ = make("classify")
    picture = tmp_path / "page.png"
    url = _only(results, "report.html").as_uri()
    chromium.screenshot(url, tmp_path / "profile", picture, width=800, height=600, dark=scheme == "dark")
    with Image.open(picture) as image:
        assert image.convert("RGB").getpixel((3, 3)) == _PAPER[scheme]


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder on HTTP, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            asked.append(self.path)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()

"""Pages and pictures that commands write: whole or not at all, and refused before the work where they cannot be."""

import errno
import os
from pathlib import Path

import pytest
from PIL import Image
from tests import colour_bundles
from tests.unit.export import tiny
from tests.unit.export.command import run

from retinue_export import assembly
from retinue_export.catalogue import report
from retinue_export.cli import options
from retinue_export.errors import ExportError


def test_what_is_no_text_does_not_keep_a_page_from_being_written(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options.write_page(page, "caf\udce9.jpg é")
    assert page.read_text(encoding="utf-8") == "caf?.jpg é"
    assert list(tmp_path.iterdir()) == [page]


def test_a_page_on_a_bundle_of_another_encodings_name_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    bundle = colour_bundles.classifier(tmp_path / "caf\udce9")
    assert run(capsys, "inspect", bundle, "--html", page)[0] == 0
    assert "caf\ufffd" in page.read_text(encoding="utf-8")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"before")
    write = Path.write_bytes

    def fill(aside: Path, content: bytes) -> int:
        write(aside, content[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(ExportError, match=r"picture\.png cannot be written: No space left on device"):
        options.write_file(path, b"the whole picture")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_and_a_device_is_written_to(tmp_path: Path) -> None:
    target, link = tmp_path / "page.html", tmp_path / "link.html"
    target.write_bytes(b"before")
    link.symlink_to(target)
    options.write_file(link, b"after")
    assert link.is_symlink()
    assert target.read_bytes() == b"after"
    options.require_writable(Path(os.devnull))
    options.write_file(Path(os.devnull), b"nothing")
    assert Path(os.devnull).is_char_device()


def test_a_folder_that_is_not_ones_own_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path or mode != os.W_OK)
    with pytest.raises(ExportError, match="not yours to write to"):
        options.require_writable(tmp_path / "page.html")


def test_a_page_of_the_catalogue_that_cannot_be_written_is_refused_before_anything_is_proved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "prove", lambda _row: pytest.fail("it was proved"))
    (tmp_path / "page.md").mkdir()
    monkeypatch.chdir(tmp_path)
    for page, said in (("none/page.md", "There is no folder none"), ("page.md", "is a directory")):
        code, _, err = run(capsys, "catalogue", "lenet_5", "--prove", "--page", page)
        assert code == 2
        assert said in err


def test_a_page_of_the_catalogue_that_turns_out_not_to_be_writable_is_told_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"

    def prove_all(*_arguments: object) -> report.Results:
        page.mkdir(exist_ok=True)
        return report.Results([], [])

    monkeypatch.setattr(report, "prove_all", prove_all)
    code, _, err = run(capsys, "catalogue", "lenet_5", "--prove", "--page", page)
    assert code == 2
    assert "page.md cannot be written: Is a directory." in err


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "PNG"), (".JPG", "JPEG"), (".webp", "WEBP")])
def test_layers_are_drawn_as_files_are_called(
    suffix: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = assembly.build(tiny.candidate(), tmp_path, 1, lambda _stage: None)
    photo, out = tmp_path / "photo.png", tmp_path / f"grid{suffix}"
    Image.fromarray(tiny.images(1)[0]).save(photo)
    assert run(capsys, "features", bundle, "--layer", "0", "--image", photo, "--out", out)[0] == 0
    with Image.open(out) as picture:
        assert picture.format == kind

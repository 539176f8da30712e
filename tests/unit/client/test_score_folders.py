"""Folders and patterns of images to score: which files they are, in which order."""

import itertools
import os
from pathlib import Path

import pytest
from tests.unit.client.source_files import entries, expect_to_go_on_anywhere, keys, make, open_with, outcomes

from retinue_client._score.errors import SourceError
from retinue_client._score.sources import tree
from retinue_client._score.sources.entry import Entry, in_requests, printable


class TestFolders:
    NAMES = (
        "b.jpg",
        "a/z.PNG",
        "a/b/c.webp",
        "a.jpg",
        "a-b.gif",
        "z/1.tiff",
        "a/b.bmp",
        "notes.txt",
        "noname",
    )

    def test_images_of_all_subfolders_come_sorted_by_path(self, tmp_path):
        make(tmp_path, *self.NAMES)
        images = [name for name in self.NAMES if name not in ("notes.txt", "noname")]
        assert keys(tmp_path) == [path.as_posix() for path in sorted(map(Path, images))]
        assert open_with(tmp_path).count() == 7
        assert open_with(tmp_path).count(lambda: True) is None

    def test_it_goes_on_after_any_file(self, tmp_path):
        make(tmp_path, *self.NAMES)
        os.mkfifo(tmp_path / "a" / "pipe.jpg")
        found = expect_to_go_on_anywhere(tmp_path)
        assert ("a/pipe.jpg", "FILE_NOT_REGULAR") in found

    def test_all_files_are_taken_whatever_their_names_where_asked_for(self, tmp_path):
        make(tmp_path, "b.jpg", "noname", "a/notes.txt")
        assert keys(tmp_path, all_files=True) == ["a/notes.txt", "b.jpg", "noname"]

    def test_the_results_own_folder_is_left_out(self, tmp_path):
        make(tmp_path, "b.jpg", "results/part-0.jpg")
        assert keys(tmp_path, leave_out=tmp_path / "results") == ["b.jpg"]
        assert keys(tmp_path / "*" / "*.jpg", leave_out=tmp_path / "results") == []

    def test_entries_know_their_size(self, tmp_path):
        make(tmp_path, "a.jpg")
        assert entries(tmp_path)[0].size_bytes == 5

    def test_links_to_files_are_followed_and_links_to_folders_are_not(self, tmp_path):
        make(tmp_path, "in/a.jpg")
        (tmp_path / "in/link.jpg").symlink_to(tmp_path / "in/a.jpg")
        (tmp_path / "in/loop").symlink_to(tmp_path)
        assert keys(tmp_path / "in") == ["a.jpg", "link.jpg"]

    def test_what_is_no_regular_file_comes_with_an_error(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
        assert outcomes(entries(tmp_path)) == [
            ("broken.jpg", "FILE_NOT_FOUND"),
            ("pipe.jpg", "FILE_NOT_REGULAR"),
        ]

    def test_a_folder_that_cannot_be_listed_comes_with_an_error(self, tmp_path, monkeypatch):
        make(tmp_path, "a.jpg", "secret/b.jpg", "z.jpg")
        listed = os.scandir

        def scandir(path):
            if Path(path).name == "secret":
                raise PermissionError(13, "Permission denied")
            return listed(path)

        monkeypatch.setattr(os, "scandir", scandir)
        found = expect_to_go_on_anywhere(tmp_path)
        assert [name for name, _ in found] == ["a.jpg", "secret/", "z.jpg"]
        assert found[1][1] == "FOLDER_UNREADABLE"

    def test_a_deep_folder_does_not_exhaust_the_stack(self, tmp_path):
        deep = tmp_path
        for _ in range(400):
            deep = deep / "d"
        deep.mkdir(parents=True)
        make(deep, "a.jpg")
        assert keys(tmp_path) == ["d/" * 400 + "a.jpg"]

    def test_a_folder_of_more_names_than_fit_in_memory_is_sorted_all_the_same(self, tmp_path, monkeypatch):
        names = [
            f"{number * 7919 % 1000:03}{'é' if number % 3 else chr(0xDCE9)}.jpg" for number in range(100)
        ]
        make(tmp_path, *names, "050/x.jpg")
        at_once = keys(tmp_path)
        monkeypatch.setattr(tree, "_NAMES_IN_MEMORY", 7)
        assert keys(tmp_path) == at_once
        assert len(at_once) == 101

    def test_requests_are_bounded_in_images_and_bytes_and_keep_the_order(self):
        made = [
            Entry(str(index), index, size, b"")
            for index, size in enumerate([10, 10, 10, 90, 200, 10, 10, 10, 10])
        ]
        runs = list(in_requests(iter(made), max_images=lambda: 3, max_bytes=100))
        assert [[entry.size_bytes for entry in run] for run in runs] == [
            [10, 10, 10],
            [90],
            [200],
            [10, 10, 10],
            [10],
        ]
        assert list(itertools.chain(*runs)) == made

    def test_names_that_are_no_text_become_text_and_can_be_gone_on_after(self, tmp_path):
        assert printable(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"
        assert printable("café 写真.jpg") == "café 写真.jpg"
        make(tmp_path, os.fsdecode(b"caf\xe9.jpg"), "z.jpg")
        expect_to_go_on_anywhere(tmp_path)


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("*.jpg", ["a.jpg", "b.jpg"]),
            ("**/*.jpg", ["a.jpg", "b.jpg", "x/c.jpg", "x/y/d.jpg"]),
            ("x/**/*.jpg", ["c.jpg", "y/d.jpg"]),
            ("**", ["a.jpg", "b.jpg", "e.png", "x/c.jpg", "x/y/d.jpg"]),
            ("*/*.jpg", ["x/c.jpg"]),
            ("?.{jpg,png}", ["a.jpg", "b.jpg", "e.png"]),
            ("[!a].jpg", ["b.jpg"]),
            ("[a-b].jpg", ["a.jpg", "b.jpg"]),
            ("{b,a}.jpg", ["b.jpg", "a.jpg"]),
            ("*.nothing", []),
            (".*.jpg", [".hidden.jpg"]),
        ],
    )
    def test_wildcards_and_braces_mean_what_they_mean_in_a_shell(self, tmp_path, pattern, found):
        make(tmp_path, "a.jpg", "b.jpg", "e.png", "x/c.jpg", "x/y/d.jpg", ".hidden.jpg", ".git/h.jpg")
        assert keys(tmp_path / pattern) == found
        expect_to_go_on_anywhere(tmp_path / pattern)

    def test_numbers_in_braces_are_counted_with_their_zeros(self, tmp_path):
        make(tmp_path, "s-008.jpg", "s-009.jpg", "s-010.jpg")
        assert outcomes(entries(tmp_path / "s-{008..011}.jpg")) == [
            ("s-008.jpg", b"12345"),
            ("s-009.jpg", b"12345"),
            ("s-010.jpg", b"12345"),
            ("s-011.jpg", "FILE_NOT_FOUND"),
        ]
        assert keys(tmp_path / "s-0{10..9}.jpg") == ["s-010.jpg", "s-09.jpg"]

    def test_a_name_that_is_there_is_no_pattern(self, tmp_path):
        make(tmp_path, "[1].jpg", "{1..2}.jpg", "1.jpg")
        assert keys(tmp_path / "[1].jpg") == ["[1].jpg"]
        assert keys(tmp_path / "{1..2}.jpg") == ["{1..2}.jpg"]

    @pytest.mark.parametrize("pattern", ["{0..99999999}.jpg", "{1..1000}{1..1000}{1..1000}.jpg"])
    def test_a_pattern_that_stands_for_too_much_is_refused_before_it_takes_memory(self, tmp_path, pattern):
        with pytest.raises(SourceError, match="more than 1,000,000 names"):
            open_with(tmp_path / pattern)

    @pytest.mark.parametrize("name", ["missing", "missing/*.jpg", "missing/s-{1..2}.tar", "x.unknown"])
    def test_what_is_not_there_or_of_no_kind_is_refused_at_once(self, tmp_path, name):
        make(tmp_path, "x.unknown")
        with pytest.raises(SourceError):
            open_with(tmp_path / name)

    def test_a_pattern_of_any_name_takes_what_is_named_like_an_image(self, tmp_path):
        make(tmp_path, "a.jpg", "notes.txt", "b.PNG", "c")
        assert keys(tmp_path / "*") == ["a.jpg", "b.PNG"]
        assert keys(tmp_path / "*", all_files=True) == ["a.jpg", "b.PNG", "c", "notes.txt"]

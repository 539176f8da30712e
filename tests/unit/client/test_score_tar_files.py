"""Images to score in tar files: whole, cut off, and made to harm."""

import gzip
import tarfile

import pytest
from tests.unit.client.source_files import entries, expect_to_go_on_anywhere, member, outcomes, tar_file

from retinue_client._score.sources.opening import SourceFormat


class TestTarFiles:
    @pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")])
    def test_members_that_are_images_are_read_from_all_shards_in_order(self, tmp_path, suffix, mode):
        for number in (10, 9):
            tar_file(
                tmp_path / f"s-{number:03}.{suffix}",
                (member("a", tarfile.DIRTYPE), b""),
                ("a/2.jpg", b"two"),
                ("a/1.png", b"one"),
                ("a/1.json", b"{}"),
                mode=mode,
            )
        expected = [
            ("s-009.X/a/2.jpg", b"two"),
            ("s-009.X/a/1.png", b"one"),
            ("s-010.X/a/2.jpg", b"two"),
            ("s-010.X/a/1.png", b"one"),
        ]
        expected = [(name.replace("X", suffix), content) for name, content in expected]
        assert expect_to_go_on_anywhere(tmp_path / f"s-{{009..010}}.{suffix}") == expected
        assert expect_to_go_on_anywhere(tmp_path / f"s-*.{suffix}") == expected
        assert expect_to_go_on_anywhere(tmp_path, SourceFormat.TAR) == expected

    def test_links_devices_and_giants_are_errors_and_what_follows_is_read(self, tmp_path):
        tar_file(
            tmp_path / "x.tar",
            (member("link.jpg", tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
            (member("hard.jpg", tarfile.LNKTYPE, linkname="../../secret"), b""),
            (member("null.jpg", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
            (member("pipe.jpg", tarfile.FIFOTYPE), b""),
            ("../../outside.jpg", b"no file is made of it"),
            ("last.jpg", b"last"),
        )
        assert expect_to_go_on_anywhere(tmp_path / "x.tar") == [
            ("x.tar/link.jpg", "FILE_NOT_REGULAR"),
            ("x.tar/hard.jpg", "FILE_NOT_REGULAR"),
            ("x.tar/null.jpg", "FILE_NOT_REGULAR"),
            ("x.tar/pipe.jpg", "FILE_NOT_REGULAR"),
            ("x.tar/../../outside.jpg", b"no file is made of it"),
            ("x.tar/last.jpg", b"last"),
        ]

    def test_a_member_that_claims_terabytes_takes_no_memory_and_ends_its_shard_alone(self, tmp_path):
        claims = member("huge.jpg", size=1 << 43).tobuf(tarfile.GNU_FORMAT)
        (tmp_path / "s-1.tar").write_bytes(claims + b"x" * 5120)
        tar_file(tmp_path / "s-2.tar", ("a.jpg", b"a"))
        assert expect_to_go_on_anywhere(tmp_path / "s-*.tar") == [
            ("s-1.tar/huge.jpg", "FILE_TOO_LARGE"),
            ("s-1.tar", "SOURCE_UNREADABLE"),
            ("s-2.tar/a.jpg", b"a"),
        ]

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
    def test_a_header_that_claims_gigabytes_is_not_read(self, tmp_path, kind):
        header = member("x", kind, size=1 << 33).tobuf(tarfile.GNU_FORMAT)
        with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
            file.write(header + bytes(4 << 20))
        ((name, reason),) = outcomes(entries(tmp_path / "x.tar.gz"))
        assert (name, reason) == ("x.tar.gz", "SOURCE_UNREADABLE")

    @pytest.mark.parametrize("cut", [1, 700, 1024, 1500, 2000])
    def test_a_shard_that_was_cut_off_gives_what_it_has_and_says_so(self, tmp_path, cut):
        tar_file(tmp_path / "whole.tar", ("a.jpg", b"a" * 600), ("b.jpg", b"b" * 600))
        data = (tmp_path / "whole.tar").read_bytes()
        (tmp_path / "x.tar").write_bytes(data[:cut])
        found = expect_to_go_on_anywhere(tmp_path / "x.tar")
        assert found[-1] == ("x.tar", "SOURCE_UNREADABLE")
        assert found[:-1] == ([("x.tar/a.jpg", b"a" * 600)] if cut > 1200 else [])

    def test_a_shard_that_was_cut_between_members_says_so(self, tmp_path):
        tar_file(tmp_path / "whole.tar", ("a.jpg", b"a"), ("b.jpg", b"b"))
        data = (tmp_path / "whole.tar").read_bytes()
        (tmp_path / "x.tar").write_bytes(data[:1024])
        found = expect_to_go_on_anywhere(tmp_path / "x.tar")
        assert found == [("x.tar/a.jpg", b"a"), ("x.tar", "SOURCE_UNREADABLE")]
        # One block of zeros is enough of a mark.
        (tmp_path / "x.tar").write_bytes(data[: 2048 + 512])
        assert outcomes(entries(tmp_path / "x.tar")) == [("x.tar/a.jpg", b"a"), ("x.tar/b.jpg", b"b")]

    def test_a_header_that_was_overwritten_is_said_and_not_taken_for_the_end(self, tmp_path):
        tar_file(tmp_path / "x.tar", ("a.jpg", b"a"), ("b.jpg", b"b"), ("c.jpg", b"c"))
        data = bytearray((tmp_path / "x.tar").read_bytes())
        data[1024:1100] = b"?" * 76
        (tmp_path / "x.tar").write_bytes(data)
        assert outcomes(entries(tmp_path / "x.tar")) == [
            ("x.tar/a.jpg", b"a"),
            ("x.tar", "SOURCE_UNREADABLE"),
        ]

    def test_a_chain_of_headers_does_not_exhaust_the_stack(self, tmp_path):
        header = member("x", tarfile.GNUTYPE_LONGNAME, size=5).tobuf(tarfile.GNU_FORMAT)
        (tmp_path / "x.tar").write_bytes((header + b"name\0".ljust(512, b"\0")) * 3000)
        assert outcomes(entries(tmp_path / "x.tar")) == [("x.tar", "SOURCE_UNREADABLE")]

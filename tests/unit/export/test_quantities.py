"""Numbers as people read them."""

import pytest

from retinue_export.quantities import metric, percent, printable


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *(
            (0, "0 B"),
            (12, "12 B"),
            (999, "999 B"),
            (999.6, "1.00 kB"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
        ),
        *(
            (123_456, "123 kB"),
            (999_600, "1.00 MB"),
            (7_038_372, "7.04 MB"),
            (4.09e9, "4.09 GB"),
            (2e12, "2.00 TB"),
        ),
    ],
)
def test_sizes_have_three_digits(value: float, text: str) -> None:
    assert metric(value, "B") == text


def test_plain_numbers_have_no_unit() -> None:
    assert (metric(7), metric(3_487_822)) == ("7", "3.49 M")


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.0 %"), (0.0001, "< 0.1 %"), (0.123, "12.3 %"), (0.99951, "> 99.9 %"), (1, "100.0 %")],
)
def test_nearly_all_is_not_all(share: float, text: str) -> None:
    assert percent(share) == text


def test_what_cannot_be_seen_is_marked() -> None:
    assert printable("caf\u00e9 \x1b[2J\u202e\n") == "caf\u00e9 \ufffd[2J\ufffd\ufffd"

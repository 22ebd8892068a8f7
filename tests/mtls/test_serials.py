"""The blacklist is read as people write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.net.serials import parse_blacklist, parse_serial

SERIAL = 0x0ABC_DEF0_1234


@pytest.mark.parametrize(
    "line",
    [
        "ABCDEF01234",
        "abcdef01234",
        "0x0ABCDEF01234",
        "0X0abcdef01234",
        "0A:BC:DE:F0:12:34",
        "00:0a:bc:de:f0:12:34",
        "0a bc de f0 12 34",
        "  \t0ABCDEF01234  ",
        "0000000000000000ABCDEF01234",
        "0ABCDEF01234 # stolen in May",
        "serial=0ABCDEF01234",
        "Serial Number: 0a:bc:de:f0:12:34",
        "0a-bc-de-f0-12-34",
        "\ufeff0ABCDEF01234",
        "0ABCDEF01234\r",
    ],
)
def test_every_way_to_write_a_serial_is_read(line: str) -> None:
    found = parse_blacklist(line.encode() + b"\n")
    assert found.serials == {SERIAL}
    assert found.unreadable == ()


@pytest.mark.parametrize("line", ["xyz", "0x", "12 34 zz", ":", "1.2", "serial=", "f" * 200, "٣"])
def test_an_unreadable_line_is_numbered_and_stops_nothing(line: str) -> None:
    found = parse_blacklist(f"# devices\n01\n{line}\n\n02".encode())
    assert found.serials == {1, 2}
    assert found.unreadable == (3,)


def test_bytes_that_are_no_text_stop_nothing() -> None:
    found = parse_blacklist(b"01\n\xff\xfe\x00\n02")
    assert found.serials == {1, 2}
    assert found.unreadable == (2,)


@given(
    st.integers(0, 2**160 - 1), st.integers(0, 20), st.booleans(), st.sampled_from(["", ":", " "])
)
def test_a_serial_survives_every_spelling(
    serial: int, zeros: int, upper: bool, separator: str
) -> None:
    digits = "0" * zeros + (f"{serial:X}" if upper else f"{serial:x}")
    pairs = [digits[max(0, end - 2) : end] for end in range(len(digits), 0, -2)][::-1]
    assert parse_serial(separator.join(pairs)) == serial


@given(st.binary())
def test_no_file_raises(data: bytes) -> None:
    parse_blacklist(data)

"""Which listening addresses cannot be taken at once."""

import pytest

from mender_gateway.config.checks import overlap
from mender_gateway.config.values import parse_address


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (":80", ":80"),
        (":80", "127.0.0.1:80"),
        (":80", "[::1]:80"),
        (":80", "0.0.0.0:80"),
        ("[::]:80", "10.0.0.1:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "gateway:80"),
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("localhost:80", "127.0.0.1:80"),
        ("[::1]:80", "[0:0::1]:80"),
        ("gateway:80", "Gateway:80"),
    ],
)
def test_listeners_on_one_port_and_the_same_or_any_host_collide(one: str, other: str) -> None:
    assert overlap(parse_address(one), parse_address(other))
    assert overlap(parse_address(other), parse_address(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (":80", ":81"),
        (":0", ":0"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("127.0.0.1:80", "[::1]:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("10.0.0.1:80", "gateway:80"),
    ],
)
def test_other_listeners_live_side_by_side(one: str, other: str) -> None:
    assert not overlap(parse_address(one), parse_address(other))
    assert not overlap(parse_address(other), parse_address(one))

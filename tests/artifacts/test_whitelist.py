"""DomainWhitelist: equal hosts and subdomains, nothing that only looks like them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.artifacts.whitelist import Whitelist, is_address


@pytest.mark.parametrize(
    ("entry", "host", "port", "allowed"),
    [
        ("s3.amazonaws.com", "s3.amazonaws.com", 443, True),
        ("s3.amazonaws.com", "bucket.s3.amazonaws.com", 443, True),
        ("s3.amazonaws.com", "a.b.s3.amazonaws.com", 8080, True),
        ("s3.amazonaws.com", "evils3.amazonaws.com", 443, False),
        ("s3.amazonaws.com", "bucket.s3.eu-west-1.amazonaws.com", 443, False),
        ("s3.amazonaws.com", "amazonaws.com", 443, False),
        ("s3.amazonaws.com", "s3.amazonaws.com.evil.example", 443, False),
        ("S3.Amazonaws.COM.", "bucket.s3.amazonaws.com", 80, True),
        (".example.com", "example.com", 80, True),
        ("*.example.com", "a.example.com", 80, True),
        ("*.example.com:9000", "a.example.com", 9000, True),
        ("*.example.com:9000", "a.example.com", 443, False),
        ("  example.com ", "example.com", 80, True),
        ("minio:9000", "minio", 9000, True),
        ("minio:9000", "minio", 9001, False),
        ("minio", "minio", 9001, True),
        ("10.0.0.1", "10.0.0.1", 9000, True),
        ("10.0.0.1", "1.10.0.0.1", 9000, False),
        ("10.0.0.1:9000", "10.0.0.1", 80, False),
        ("::1", "::1", 80, True),
        ("[::1]", "::1", 80, True),
        ("[0:0::1]:9000", "::1", 9000, True),
        ("[::1]:9000", "::1", 80, False),
        ("com", "a.com", 80, True),
    ],
)
def test_an_entry_covers_its_host_and_the_subdomains(
    entry: str, host: str, port: int, allowed: bool
) -> None:
    assert Whitelist.parse([entry]).allows(host, port) is allowed


def test_several_entries_for_one_host_add_up() -> None:
    both = Whitelist.parse(["a:1", "a:2"])
    assert [both.allows("a", port) for port in (1, 2, 3)] == [True, True, False]
    for entries in (["a:1", "a"], ["a", "a:1"]):
        assert Whitelist.parse(entries).allows("a", 3)


def test_a_broader_entry_holds_beside_a_narrower_one() -> None:
    whitelist = Whitelist.parse(["b.a:1", "a"])
    assert whitelist.allows("b.a", 2)
    assert not Whitelist.parse(["b.a:1"]).allows("b.a", 2)


def test_an_empty_whitelist_allows_nothing() -> None:
    assert not Whitelist.parse([]).allows("a", 80)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        " ",
        ".",
        "*",
        "*.",
        "a..b",
        "*.*.a",
        "a b",
        "a,b",
        "https://a",
        "a/b",
        "user@a",
        "ä.example",
        "a:0",
        "a:65536",
        "a:b",
        "a:",
        "[::1",
        "[:::1:::]",
        "1:2:3",
        "*.10.0.0.1",
        ".[::1]",
        "10.0.0",
        "10.0.0.256",
        "127.1",
        "2130706433",
        "a" * 254,
    ],
)
def test_a_bad_entry_is_named(entry: str) -> None:
    with pytest.raises(ValueError) as caught:
        Whitelist.parse(["good.example", entry])
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "hint"),
    [("https://a", "scheme"), ("a/b", "path"), ("bücher.example", "xn--")],
)
def test_the_error_says_what_to_do(entry: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        Whitelist.parse([entry])


@pytest.mark.parametrize("host", ["1.2.3.4", "::1", "127.1", "2130706433", "0x7f.1", "0x7f000001"])
def test_numbers_that_a_resolver_takes_for_addresses_have_no_parent_domains(host: str) -> None:
    assert is_address(host)
    assert not is_address(f"{host.replace(':', '')}.example")


label = st.sampled_from(["a", "b", "aa", "s3", "com"])
hosts = st.lists(label, min_size=1, max_size=4).map(".".join)


@given(
    st.lists(st.tuples(hosts, st.sampled_from([None, 80, 443]))), hosts, st.sampled_from([80, 443])
)
def test_the_answer_is_that_of_comparing_with_every_entry(
    entries: list[tuple[str, int | None]], host: str, port: int
) -> None:
    whitelist = Whitelist.parse(
        [name if number is None else f"{name}:{number}" for name, number in entries]
    )
    assert whitelist.allows(host, port) is any(
        (host == name or host.endswith("." + name)) and number in (None, port)
        for name, number in entries
    )

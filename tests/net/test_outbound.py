"""Which hosts are reached without a proxy, and how a proxy's URL is read. Pure functions."""

import base64
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.net.outbound import OutboundProxy, bypasses_proxy

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8)
NAME = st.lists(LABEL, min_size=2, max_size=4).map(".".join).filter(
    lambda name: not name.replace(".", "").isdigit()
)  # fmt: skip


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "bypasses"),
    [
        ("", "example.com", 443, False),
        ("example.com", "example.com", 443, True),
        ("example.com", "www.example.com", 443, True),
        ("example.com", "badexample.com", 443, False),
        ("example.com", "example.com.evil.org", 443, False),
        (".example.com", "www.example.com", 443, True),
        (".example.com", "a.b.example.com", 443, True),
        (".example.com", "example.com", 443, False),
        ("*.example.com", "www.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("EXAMPLE.com.", "Example.COM", 443, True),
        ("example.com", "example.com.", 443, True),
        ("*", "anything.example", 80, True),
        ("a.example,b.example", "b.example", 80, True),
        ("a.example b.example", "b.example", 80, True),
        (" a.example ,\tb.example ,", "b.example", 80, True),
        ("example.com:8080", "example.com", 8080, True),
        ("example.com:8080", "www.example.com", 8080, True),
        ("example.com:8080", "example.com", 443, False),
        ("10.1.2.3", "10.1.2.3", 80, True),
        ("10.1.2.3", "10.1.2.30", 80, False),
        ("10.1.2.3:8080", "10.1.2.3", 8080, True),
        ("10.1.2.3:8080", "10.1.2.3", 80, False),
        ("10.0.0.0/8", "10.200.1.1", 80, True),
        ("10.0.0.0/8", "11.0.0.1", 80, False),
        ("10.1.2.3/8", "10.200.1.1", 80, True),
        ("10.0.0.0/8", "ten.example", 80, False),
        ("fd00::/8", "fd12::1", 80, True),
        ("fd00::/8", "fe80::1", 80, False),
        ("fd00::1", "fd00:0:0::1", 80, True),
        ("[fd00::1]", "fd00::1", 80, True),
        ("[fd00::1]:8443", "fd00::1", 8443, True),
        ("[fd00::1]:8443", "fd00::1", 443, False),
        ("2.3", "1.1.2.3", 80, False),
        ("1", "fd00::1", 80, False),
        ("", "localhost", 80, True),
        ("", "127.0.0.1", 80, True),
        ("", "127.8.9.1", 80, True),
        ("", "::1", 80, True),
        ("", "notlocalhost", 80, False),
        ("]", "example.com", 80, False),
        (":", "example.com", 80, False),
        (".", "example.com", 80, False),
        ("http://example.com", "example.com", 80, False),
        ("10.0.0.0/99", "10.0.0.1", 80, False),
    ],
)
def test_no_proxy_as_its_users_write_it(
    no_proxy: str, host: str, port: int, bypasses: bool
) -> None:
    assert bypasses_proxy(no_proxy, host, port) is bypasses


@given(NAME, NAME, st.integers(1, 65535))
def test_names_match_at_label_boundaries_alone(entry: str, host: str, port: int) -> None:
    assert bypasses_proxy(entry, f"sub.{entry}", port)
    assert bypasses_proxy(f".{entry}", f"sub.{entry}", port)
    assert bypasses_proxy(f"*.{entry}", f"sub.{entry}", port)
    assert not bypasses_proxy(entry, f"x{entry}", port)
    expected = host == entry or host.endswith("." + entry)
    assert bypasses_proxy(entry, host, port) == (expected or host == "localhost")


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
def test_networks_match_the_addresses_in_them(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    base: ipaddress.IPv4Address | ipaddress.IPv6Address,
    bits: int,
) -> None:
    network = ipaddress.ip_network(f"{base}/{min(bits, base.max_prefixlen)}", strict=False)
    expected = address in network or address.is_loopback
    assert bypasses_proxy(str(network), str(address), 80) == expected


@given(st.text(max_size=60), st.one_of(NAME, st.ip_addresses().map(str)), st.integers(1, 65535))
def test_no_text_is_a_fault(no_proxy: str, host: str, port: int) -> None:
    assert bypasses_proxy(no_proxy, host, port) in (True, False)


@given(st.lists(NAME, max_size=5), NAME)
def test_the_order_of_entries_does_not_matter(entries: list[str], host: str) -> None:
    forwards, backwards = ",".join(entries), " ".join(reversed(entries))
    assert bypasses_proxy(forwards, host, 80) == bypasses_proxy(backwards, host, 80)


@pytest.mark.parametrize(
    ("url", "host", "port", "credentials"),
    [
        ("http://proxy.example:3128", "proxy.example", 3128, None),
        ("proxy.example:3128", "proxy.example", 3128, None),
        ("http://proxy.example", "proxy.example", 80, None),
        ("http://[fd00::1]:3128/", "fd00::1", 3128, None),
        ("http://user:pass@proxy.example:3128", "proxy.example", 3128, b"user:pass"),
        ("user:pass@proxy.example:3128", "proxy.example", 3128, b"user:pass"),
        ("http://user@proxy.example", "proxy.example", 80, b"user:"),
        ("http://us%3Aer:p%40ss%2Fw%20d@proxy.example", "proxy.example", 80, b"us:er:p@ss/w d"),
        ("http://us%C3%A9r:p@proxy.example", "proxy.example", 80, "usér:p".encode()),
    ],
)
def test_a_proxy_url_is_read(url: str, host: str, port: int, credentials: bytes | None) -> None:
    proxy = OutboundProxy.parse(url)
    assert (proxy.host, proxy.port) == (host, port)
    expected = b"" if credentials is None else b"Basic " + base64.b64encode(credentials)
    assert proxy.authorization == expected
    assert "Basic" not in repr(proxy)


@pytest.mark.parametrize(
    "url", ["https://proxy.example", "socks5://proxy.example:1080", "http://", "http://:3128"]
)
def test_a_proxy_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        OutboundProxy.parse(url)

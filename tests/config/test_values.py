"""The syntax of single settings: Go's durations and addresses, URLs, sizes, hosts, secrets."""

import base64
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mender_gateway.config import values
from mender_gateway.config.settings import Address, Endpoint

LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PORTS = st.integers(1, 65535)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24h", 86400.0),
        ("1h30m", 5400.0),
        ("90s", 90.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("100us", 0.0001),
        ("100µs", 0.0001),
        ("100μs", 0.0001),
        ("7ns", 7e-9),
        ("0", 0.0),
        ("+5s", 5.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("1m1m", 120.0),
    ],
)
def test_durations_are_those_of_go(text: str, seconds: float) -> None:
    assert values.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", ".s", "1 h", "1h ", "1d", "1H", "-5s", "-0", "+", "1e3s", "٣s", "9" * 30 + "h"],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        values.parse_duration(text)


@given(st.integers(0, 10**15))
def test_a_duration_survives_being_shown(microseconds: int) -> None:
    seconds = microseconds / 10**6
    assert values.parse_duration(values.format_duration(seconds)) == pytest.approx(
        seconds, abs=1e-9, rel=1e-15
    )


@given(st.integers(0, 2**62))
def test_a_size_survives_being_shown(size: int) -> None:
    assert values.parse_size(values.format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536),
        ("64KiB", 65536),
        ("64 kib", 65536),
        ("10MB", 10_000_000),
        ("1.5GB", 1_500_000_000),
        ("12B", 12),
    ],
)
def test_sizes_have_decimal_and_binary_units(text: str, size: int) -> None:
    assert values.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "-1", "1K", "1XB", "1,5MB", "0x10", "9" * 40])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        values.parse_size(text)


@pytest.mark.parametrize("text", ["true", "TRUE", "True", "t", "T", "1"])
def test_true_has_the_spellings_of_go(text: str) -> None:
    assert values.parse_boolean(text) is True


@pytest.mark.parametrize("text", ["false", "FALSE", "f", "F", "0"])
def test_false_has_the_spellings_of_go(text: str) -> None:
    assert values.parse_boolean(text) is False


@pytest.mark.parametrize("text", ["yes", "on", "2", "", "truee"])
def test_other_words_are_no_boolean(text: str) -> None:
    with pytest.raises(ValueError, match='"true" or "false"'):
        values.parse_boolean(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":443", Address("", 443)),
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("[::1]:8443", Address("::1", 8443)),
        ("[::]:80", Address("::", 80)),
        ("Gateway.Local:80", Address("gateway.local", 80)),
        (":0", Address("", 0)),
        (":https", Address("", 443)),
        ("8080", Address("", 8080)),
    ],
)
def test_listening_addresses_are_those_of_go(text: str, address: Address) -> None:
    assert values.parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", ":", "::1:80", "[::1]", "[::1", "host", ":65536", ":-1", "*:80", "a b:80", "1.2.3:80",
     "999.1.1.1:80", "[1.2.3.4]:80", ":８０", ":8080/", "http://:80", "host:"],
)  # fmt: skip
def test_what_is_no_listening_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        values.parse_address(text)


@given(NAMES | st.ip_addresses().map(str) | st.just(""), st.integers(0, 65535))
def test_an_address_survives_being_shown(host: str, port: int) -> None:
    assume("%" not in host)
    address = Address(host, port)
    assert values.parse_address(str(address)) == address


@given(st.sampled_from(["http", "https"]), NAMES | st.ip_addresses().map(str), PORTS)
def test_an_endpoint_survives_being_shown(scheme: str, host: str, port: int) -> None:
    endpoint = Endpoint(scheme, host, port)
    assert values.parse_endpoint(str(endpoint)) == endpoint
    assert values.parse_endpoint(f"{endpoint}/") == endpoint


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://host/path", "a path"),
        ("https://host//", "a path"),
        ("https://host?query=1", "a query"),
        ("https://host/?query=1", "a query"),
        ("https://host#fragment", "a fragment"),
        ("https://user@host", "user name or password"),
        ("https://user:pw@host", "user name or password"),
        ("ftp://host", "http:// or https://"),
        ("host:443", "http:// or https://"),
        ("https//host", "http:// or https://"),
        ("https://", "no valid host"),
        ("https://:443", "no valid host"),
        ("https://host:", "no valid host"),
        ("https://host:99999", "above 65535"),
        ("https://host:0", "port 0"),
        ("https://host name", "blanks"),
        ("https://höst", "beyond ASCII"),
        ("https://host\r\n", "blanks"),
        ("https://::1", "no valid host"),
        ("https://[::1", "no valid host"),
        ("https://1.2.3", "no valid host"),
        ("https://a..b", "no valid host"),
    ],
)
def test_a_url_that_is_more_or_less_than_an_endpoint_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        values.parse_endpoint(url)


def test_the_host_of_an_endpoint_is_lower_case_without_final_dot() -> None:
    assert values.parse_endpoint("HTTPS://Hosted.Mender.IO.") == Endpoint(
        "https", "hosted.mender.io", 443
    )


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("s3.amazonaws.com", "s3.amazonaws.com"),
        ("*.S3.Amazonaws.COM.", "s3.amazonaws.com"),
        (".example.com", "example.com"),
        ("storage.example.com.:9000", "storage.example.com:9000"),
        ("10.0.0.1:9000", "10.0.0.1:9000"),
        ("[::1]:9000", "[::1]:9000"),
        ("0:0::1", "[::1]"),
    ],
)
def test_whitelist_entries_have_one_form(text: str, entry: str) -> None:
    assert values.parse_whitelist_entry(text) == entry


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.", ".", "https://s3.amazonaws.com", "s3.amazonaws.com/bucket", "*foo.com",
     "a.*.com", "host:port", "host:0", "host:70000", "bücket.example.com", "user@host", "a b"],
)  # fmt: skip
def test_malformed_whitelist_entries_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        values.parse_whitelist_entry(text)


@given(st.sampled_from(["", ".", "*."]), NAMES, st.sampled_from(["", "."]), PORTS | st.none())
def test_a_whitelist_entry_in_its_usual_form_stays(
    prefix: str, name: str, dot: str, port: int | None
) -> None:
    text = f"{prefix}{name}{dot}" + ("" if port is None else f":{port}")
    entry = values.parse_whitelist_entry(text)
    assert values.parse_whitelist_entry(entry) == entry
    assert entry == name + ("" if port is None else f":{port}")


@given(st.binary(min_size=1, max_size=64))
def test_a_secret_may_be_in_either_alphabet_with_or_without_padding(secret: bytes) -> None:
    for text in (base64.b64encode(secret), base64.urlsafe_b64encode(secret)):
        assert values.parse_secret(text.decode()) == secret
        assert values.parse_secret(text.decode().rstrip("=")) == secret


@pytest.mark.parametrize("text", ["", "====", "not base64!", "a", "ä", "A B"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="openssl rand"):
        values.parse_secret(text)


@pytest.mark.parametrize(
    "text", ["http://user:p%40ss@proxy:3128", "proxy:3128", "http://proxy/", "HTTP://[::1]:8080"]
)
def test_a_proxy_is_kept_as_it_was_written(text: str) -> None:
    assert values.parse_proxy(text) == text


@pytest.mark.parametrize(
    "text", ["socks5://proxy", "https://proxy", "http://", "http://u:p/w@proxy", "proxy:x"]
)
def test_what_is_no_usable_proxy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        values.parse_proxy(text)


@given(st.ip_addresses())
def test_a_trusted_proxy_is_an_address_or_a_network(address: IPv4Address | IPv6Address) -> None:
    assert values.parse_network(str(address)) == str(address)
    assert values.parse_network(f"{address}/0") in ("0.0.0.0/0", "::/0")


@given(st.text())
def test_no_parser_fails_other_than_by_its_message(text: str) -> None:
    for parse in (
        values.parse_duration,
        values.parse_size,
        values.parse_boolean,
        values.parse_address,
        values.parse_endpoint,
        values.parse_proxy,
        values.parse_whitelist_entry,
        values.parse_network,
        values.parse_secret,
        values.parse_tls_version,
    ):
        message = "fine"
        try:
            parse(text)
        except ValueError as error:
            message = str(error)
        assert message.isprintable()
        assert message


@given(st.text(min_size=3).filter(lambda text: "*" not in text), NAMES)
def test_a_masked_url_keeps_no_password_and_no_query(secret: str, host: str) -> None:
    assume(secret not in f"https://***@{host}/?***" and "@" not in secret)
    assert secret not in values.mask_url(f"https://user:{secret}@{host}")
    assert secret not in values.mask_url(f"user:{secret}@{host}")
    assert secret not in values.mask_url(f"https://{host}/?{secret}")


@given(st.text(max_size=500))
def test_anything_can_be_printed_in_one_line(text: str) -> None:
    assert values.printable(text).isprintable()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7d", 604_800.0), ("1.5d", 129_600.0), ("1d12h", 129_600.0), ("36h", 129_600.0), ("0", 0.0)],
)
def test_periods_may_have_days(text: str, seconds: float) -> None:
    assert values.parse_period(text) == seconds
    assert values.parse_period(values.format_period(seconds)) == seconds


@pytest.mark.parametrize("text", ["d", "1d1d", "-1d", "1d 2h", "1D", "99999999d", "1d2", "1w"])
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|period"):
        values.parse_period(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1250000", 1_250_000),
        ("10mbit", 1_250_000),
        ("10 Mbit/s", 1_250_000),
        ("500kbit", 62_500),
        ("1gbit", 125_000_000),
        ("16000bit", 2000),
        ("2MB", 2_000_000),
        ("1.5MiB/s", 1_572_864),
    ],
)
def test_rates_are_bits_or_bytes_per_second(text: str, rate: int) -> None:
    assert values.parse_rate(text) == rate
    assert values.parse_rate(values.format_rate(rate)) == rate


@pytest.mark.parametrize("text", ["", "fast", "10mbps", "10m", "-1", "0", "100", "1e9", "8kbit"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rate|bounds"):
        values.parse_rate(text)


@given(st.integers(1024, 2**50))
def test_a_rate_survives_being_shown(rate: int) -> None:
    assert values.parse_rate(values.format_rate(rate)) == rate

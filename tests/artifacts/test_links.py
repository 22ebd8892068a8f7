"""What becomes of a link: storage, the server's own, or foreign."""

import pytest

from mender_gateway.artifacts.links import Foreign, Own, Storage, classify
from mender_gateway.artifacts.whitelist import Whitelist
from tests.artifacts.test_identity import S3

WHITELIST = Whitelist.parse(["s3.amazonaws.com", "store.lab:9000", "upstream.example.com"])
OWN = frozenset({("upstream.example.com", 443), ("gateway.lab", 8443), ("plain.lab", 443)})
CONFIGURATION = "/api/devices/v1/deployments/download/configuration/a/b/c?x-men-expire=1"


@pytest.mark.parametrize(
    "url",
    [
        S3,
        "https://bucket.s3.amazonaws.com/x",
        "https://upstream.example.com/mender-artifact-storage/x?X-Amz-Date=1",
        "https://upstream.example.com/apis/x",
        "https://upstream.example.com/bucket/api/x",
        "https://upstream.example.com/bucket/release..1;x.mender",
    ],
)
def test_a_path_on_a_whitelisted_host_is_storage_even_on_the_servers_own(url: str) -> None:
    link = classify(url, WHITELIST, OWN)
    assert isinstance(link, Storage)
    assert url.endswith(link.origin.target)


@pytest.mark.parametrize(
    "url",
    [
        "https://upstream.example.com" + CONFIGURATION,
        "http://upstream.example.com" + CONFIGURATION,
        "https://UPSTREAM.example.com.:443" + CONFIGURATION,
        "https://gateway.lab:8443" + CONFIGURATION,
        "http://gateway.lab:8443" + CONFIGURATION,
        "http://plain.lab" + CONFIGURATION,
    ],
)
def test_a_link_to_the_server_or_the_gateway_keeps_its_path_and_query(url: str) -> None:
    assert classify(url, WHITELIST, OWN) == Own(CONFIGURATION)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("https://upstream.example.com/bucket/a?b=c", "upstream.example.com"),
        ("http://gateway.lab:8443/bucket/a?b=c", "gateway.lab"),
    ],
)
def test_a_store_on_an_own_host_comes_with_the_line_that_would_make_it_one(
    url: str, line: str
) -> None:
    assert classify(url, Whitelist.parse([]), OWN) == Own("/bucket/a?b=c", line)
    assert isinstance(classify(url, Whitelist.parse([line]), OWN), Storage)


@pytest.mark.parametrize(
    "path",
    ["/api/x", "/API/x", "/api", "//api/x", "/./api/x", "/%61pi/x", "/x/../api/x", "/api%2Fx"],
)
def test_what_reads_as_an_api_is_never_storage(path: str) -> None:
    own = classify("https://upstream.example.com" + path, WHITELIST, OWN)
    assert own == Own(path)
    foreign = classify("https://bucket.s3.amazonaws.com" + path, WHITELIST, OWN)
    assert isinstance(foreign, Foreign)
    assert foreign.entry is None


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("https://bucket.s3.eu-west-1.amazonaws.com/x", "bucket.s3.eu-west-1.amazonaws.com"),
        ("https://evils3.amazonaws.com/x", "evils3.amazonaws.com"),
        ("http://store.lab:9001/x", "store.lab"),
        ("http://gateway.lab:9000/x", "gateway.lab"),
        ("http://[::1]:9000/x", "[::1]"),
    ],
)
def test_any_other_link_stays_and_the_line_to_add_is_known(url: str, entry: str) -> None:
    link = classify(url, WHITELIST, OWN)
    assert isinstance(link, Foreign)
    assert link.entry == entry
    assert classify(url, Whitelist.parse([entry]), frozenset()) != link


@pytest.mark.parametrize(
    "url", ["", "x", "ftp://s3.amazonaws.com/x", "https://a:b@s3.amazonaws.com/x", "http://ä/x"]
)
def test_a_link_that_cannot_be_read_stays_with_the_reason(url: str) -> None:
    link = classify(url, WHITELIST, OWN)
    assert isinstance(link, Foreign)
    assert link.entry is None
    assert "not a usable storage link" in link.reason

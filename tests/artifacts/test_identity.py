"""Storage links taken apart, and the identity that all links for one object share."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.artifacts.identity import (
    LONGEST_URL,
    Origin,
    object_id,
    parse_storage_url,
    signed_at,
)
from mender_gateway.errors import BadLink

S3 = (
    "http://store.lab:9000/mender/5f9c1a40-7a0e-4c1c-9a53-0d1f6a3d2b11"
    "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=mender%2F20261123%2Fus-east-1%2Fs3"
    "%2Faws4_request&X-Amz-Date=20261123T142549Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    "&response-content-disposition=attachment%3B%20filename%3D%22release-1.mender%22"
    "&response-content-type=application%2Fvnd.mender-artifact&x-id=GetObject"
    "&X-Amz-Signature=0b54c8f8f5e7b8b0a9c8e2bb3f90f1e5c3f1d6f4d2a40c9d2d6c3a5ff3b1a7e6"
)
BARE = S3.partition("?")[0]


def identity(url: str) -> str:
    return object_id(parse_storage_url(url))


def test_a_link_is_taken_apart_and_keeps_its_bytes() -> None:
    url = "HTTPS://Bucket.S3.Example.com.:8443/a%2Fb/%7e|$'()*~;c?x=%2f+&y"
    assert parse_storage_url(url) == Origin(
        scheme="https",
        host="bucket.s3.example.com",
        port=8443,
        authority="Bucket.S3.Example.com.:8443",
        target="/a%2Fb/%7e|$'()*~;c?x=%2f+&y",
    )


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "target"),
    [
        ("http://a/x", "a", 80, "a", "/x"),
        ("https://a", "a", 443, "a", "/"),
        ("https://a?b=c", "a", 443, "a", "/?b=c"),
        ("http://a:80/", "a", 80, "a:80", "/"),
        ("http://[2001:DB8:0::1]:9000/x", "2001:db8::1", 9000, "[2001:DB8:0::1]:9000", "/x"),
        ("http://10.0.0.1/x", "10.0.0.1", 80, "10.0.0.1", "/x"),
        ("http://minio_1:9000/x", "minio_1", 9000, "minio_1:9000", "/x"),
        ("http://a//b/../c", "a", 80, "a", "//b/../c"),
        ("http://a/user@host", "a", 80, "a", "/user@host"),
    ],
)
def test_host_and_port_are_for_connecting_and_authority_is_for_the_signature(
    url: str, host: str, port: int, authority: str, target: str
) -> None:
    origin = parse_storage_url(url)
    assert (origin.host, origin.port) == (host, port)
    assert (origin.authority, origin.target) == (authority, target)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "neither http nor https"),
        ("/relative", "neither http nor https"),
        ("//a/x", "neither http nor https"),
        ("ftp://a/x", "neither http nor https"),
        ("http:/a/x", "neither http nor https"),
        ("http://", "host name or port"),
        ("http:///x", "host name or port"),
        ("http://user@a/x", "user name"),
        ("https://user:secret@a/x", "user name"),
        ("http://a/x#y", "fragment"),
        ("http://a#y", "fragment"),
        ("http://a/x y", "space"),
        ("http://a/x\n", "space"),
        ("http://a\t/x", "space"),
        ("http://ä.example/x", "ASCII"),
        ("http://a/ä", "ASCII"),
        ("http://a%2eb/x", "host name or port"),
        ("http://a\\b/x", "host name or port"),
        ("http://a:b/x", "host name or port"),
        ("http://a:/x", "host name or port"),
        ("http://a:0/x", "port"),
        ("http://a:65536/x", "port"),
        ("http://a:123456/x", "host name or port"),
        ("http://a..b/x", "host name"),
        ("http://.a/x", "host name or port"),
        ("http://[::1/x", "host name or port"),
        ("http://[fe80::1%25eth0]/x", "host name or port"),
        ("http://[:::]/x", "IPv6"),
        ("http://" + "a" * 254 + "/x", "host name"),
        ("http://a/" + "x" * LONGEST_URL, "longer"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(BadLink, match=reason):
        parse_storage_url(url)


@given(st.text(max_size=60).map(lambda tail: "http://" + tail))
def test_whatever_is_taken_can_be_put_together_again(url: str) -> None:
    try:
        origin = parse_storage_url(url)
    except BadLink:
        return
    again = f"{origin.scheme}://{origin.authority}{origin.target}"
    assert again in (url, url + "/", url.replace("?", "/?", 1))
    assert parse_storage_url(again) == origin


def test_every_newly_signed_link_for_one_object_has_one_identity() -> None:
    later = S3.replace("142549Z", "152549Z").replace("0b54c8", "ffffff")
    assert identity(S3) == identity(later) == identity(BARE)


SIGNING = [
    "X-Amz-Date=20261123T142549Z",
    "x-amz-security-token=abc",
    "X-Goog-Signature=00",
    "AWSAccessKeyId=a",
    "Signature=b",
    "Expires=1795443949",
    "Key-Pair-Id=K",
    "Policy=p",
    "x-id=GetObject",
    "response-content-type=a",
    "response-content-disposition",
    *("sv=1", "ss=1", "srt=1", "sp=1", "st=1", "se=1", "spr=1", "sig=1", "sr=1", "sip=1"),
    *("skoid=1", "sktid=1", "skt=1", "ske=1", "sks=1", "skv=1"),
    "GoogleAccessId=a",
    "x-men-expire=1",
    "x-men-signature=1",
]
COUNTING = [
    "versionId=1",
    "versionId=2",
    "partNumber=1",
    "signature=x",
    "expires=1",
    "SV=1",
    "svx=1",
    "x-amzn=1",
    "X-Amz=1",
    "response-content",
    "a=sig=1",
    "X-Men-Expire=1",
    "%73ig=1",
]


@given(
    st.lists(st.sampled_from(COUNTING), max_size=3),
    st.lists(st.sampled_from(SIGNING), max_size=5),
    st.data(),
)
def test_what_signs_or_dresses_never_counts_and_all_else_does(
    counting: list[str], signing: list[str], data: st.DataObject
) -> None:
    plain = "&".join(counting)
    mixed = list(counting)
    for parameter in signing:
        mixed.insert(data.draw(st.integers(0, len(mixed))), parameter)
    base = "https://a/b"
    assert identity(f"{base}?{plain}") == identity(f"{base}?{'&'.join(mixed)}")
    for parameter in COUNTING:
        assert identity(f"{base}?{plain}") != identity(f"{base}?{'&'.join([*mixed, parameter])}")


@pytest.mark.parametrize(
    "other",
    [
        "https://store.lab:9000/mender/x",
        "http://store.lab/mender/x",
        "http://store2.lab:9000/mender/x",
        "http://store.lab:9000/mender/X",
        "http://store.lab:9000//mender/x",
        "http://store.lab:9000/mender/x/",
        "http://store.lab:9000/mender%2Fx",
        "http://store.lab:9000/mender/x?versionId=1",
        "http://store.lab:9000/mender/x%3Fsig=1",
    ],
)
def test_scheme_host_port_and_path_make_another_object(other: str) -> None:
    assert identity("http://store.lab:9000/mender/x") != identity(other)


def test_case_and_a_dot_of_the_host_and_a_default_port_do_not() -> None:
    assert identity("http://a.b/x") == identity("HTTP://A.B.:80/x?")
    assert identity("http://[::1]/x") == identity("http://[0:0::1]:80/x")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#")))
def test_an_identity_is_a_file_name(tail: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", identity("https://a/" + tail))


def test_identities_of_this_version_never_change() -> None:
    assert identity(BARE) == "b02056266981bb96a5350250a3ffed7d"


@pytest.mark.parametrize(
    ("query", "moment"),
    [
        ("X-Amz-Date=20261123T142549Z", 1795443949.0),
        ("X-Goog-Date=20261123T142549Z&X-Goog-Expires=60", 1795443949.0),
        ("sv=1&st=2026-11-23T14%3A25%3A49Z&se=2027-01-01T00%3A00%3A00Z", 1795443949.0),
        ("st=2026-11-23T14:25:49Z", 1795443949.0),
        ("se=2026-11-23", 1795392000.0),
        ("Expires=1795443949&Signature=x", 1795443949.0),
        ("Expires=1&X-Amz-Date=20261123T142549Z", 1795443949.0),
        ("x-men-expire=2026-11-23T14%3a25%3a49Z", 1795443949.0),
        ("X-Amz-Date=yesterday", None),
        ("Expires=123456789012", None),
        ("Expires=\u0661", None),
        ("versionId=1", None),
        ("", None),
    ],
)
def test_the_time_of_signing_is_read_wherever_it_stands(query: str, moment: float | None) -> None:
    origin = Origin("https", "a", 443, "a", f"/b?{query}")
    assert signed_at(origin) == moment


@given(st.text(max_size=30))
def test_no_text_makes_reading_the_time_of_signing_fail(text: str) -> None:
    moment = signed_at(Origin("https", "a", 443, "a", f"/b?X-Amz-Date={text}&Expires={text}"))
    assert moment is None or isinstance(moment, float)

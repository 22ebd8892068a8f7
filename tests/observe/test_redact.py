"""What never stands in a log, and what a reader of the log must still be able to see."""

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.observe.redact import is_secret_field, redact, redact_path

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJkZXZpY2UifQ.c2lnbmF0dXJlLXRoYXQtc2lnbnM"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pw@host/path", "https://***@host/path"),
        ("https://user:p/w@host/path", "https://***@host/path"),
        ("https://token@host", "https://***@host"),
        ("https://a@b@host", "https://***@host"),
        (
            "http://h:80/,http://user:p@h2/,http://u:q@h3",
            "http://h:80/,http://***@h2/,http://***@h3",
        ),
        ("GET https://s3/b/o?X-Amz-Signature=1&b=2 failed", "GET https://s3/b/o?*** failed"),
        ("https://host/?bare", "https://host/?***"),
        ("/download?x-men-signature=abc", "/download?***"),
        ("Authorization: Bearer abc.def", "Authorization: *** ***"),
        ("sent bearer abc123==", "sent bearer ***"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        (f"token {JWT} refused", "token *** refused"),
        (f"token {JWT[:25]} cut", "token *** cut"),
        ("X-MEN-Signature: YWJj/ZA==", "X-MEN-Signature: ***"),
        ("password=hunter2;", "password=***;"),
        ('{"password": "hunter2"}', '{"password": "***"}'),
        ("client_secret=hunter2&x=1", "client_secret=***&x=1"),
    ],
)
def test_secrets_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "listening for devices",
        "https://hosted.mender.io:443/api/devices/v1/",
        "http://host:8080/path@2x.png",
        "is the upstream reachable? yes",
        "3a9e4a0b-61de-4f8c-9c3b-1f8f7d8f6f01",
        "HTTPS.ServerKey: /etc/mender/private.key does not belong to the certificate",
        "evict 3 objects, every byte of them",
        "config: 5 keys",
        "the basics",
        "signature does not verify",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/api/devices/v1/inventory/device/attributes", None),
        ("/api/x/3a9e4a0b-61de-4f8c-9c3b-1f8f7d8f6f01/status", None),
        ("/a?b=c", "/a"),
        ("/a#b?c", "/a"),
        ("*", None),
        ("/x/" + "a" * 39, None),
        ("/x/" + "a" * 40, "/x/aaaa***"),
        (f"/x/{JWT}/y", "/x/eyJh***/y"),
        ("/x/token=abc", "/x/token=***"),
    ],
)
def test_paths_lose_query_and_tokens(path: str, shown: str | None) -> None:
    assert redact_path(path) == (path if shown is None else shown)


@pytest.mark.parametrize("name", ["password", "mender_password", "token", "api_token", "signature"])
def test_fields_with_such_names_are_secret(name: str) -> None:
    assert is_secret_field(name)


@pytest.mark.parametrize("name", ["tokens_left", "device", "path", "secretary"])
def test_other_fields_are_not(name: str) -> None:
    assert not is_secret_field(name)


WORDS = st.text(string.ascii_letters + string.digits + "._~-", min_size=8, max_size=40)


@given(st.text(max_size=30), WORDS, st.text(max_size=30))
def test_no_text_around_it_lets_a_query_or_password_through(
    before: str, secret: str, after: str
) -> None:
    secret = f"Q9{secret}9Q"
    for text in (
        f"{before} https://host/path?a={secret} {after}",
        f"{before} https://user:{secret}@host/ {after}",
        f"{before} Authorization: Bearer {secret} {after}",
    ):
        assert secret not in redact(text)


@given(st.text())
def test_hiding_twice_is_hiding_once(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "unit",
    [
        "://",
        "://a:",
        "?",
        "ey-",
        "eyJ",
        "token",
        "token:",
        "Bearer ",
        "a",
        "/",
        "?a",
        "e.y",
        "://a@",
    ],
)
def test_no_text_takes_long(unit: str) -> None:
    """Devices choose what is logged; while a pattern searches, nothing else runs."""
    for text in (unit * 2100, "?@ " + unit * 2100, unit * 1000 + " @?"):
        fastest = float("inf")
        for _ in range(3):
            began = time.thread_time()
            redact(text[:2100])
            redact_path(text[:2100])
            fastest = min(fastest, time.thread_time() - began)
        assert fastest < 0.01

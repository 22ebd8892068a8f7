"""Targets read for routing: by the RFC, and by the most careless server that could be behind us."""

import itertools
import posixpath
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mender_gateway import errors
from mender_gateway.http.target import (
    LONGEST_PATH,
    normalise,
    reads_as,
    reads_as_internal,
    split,
)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"/api/devices/v1/x", b"/api/devices/v1/x"),
        (b"/api/devices/v1/x?a=%41//../b", b"/api/devices/v1/x"),
        (b"/%61p%69/x", b"/api/x"),
        (b"/a%2Fb%2fc", b"/a%2Fb%2fc"),
        (b"/a\\b", b"/a\\b"),
        (b"/a;b/c", b"/a;b/c"),
        (b"//a///b", b"/a/b"),
        (b"/a/./b/.", b"/a/b/"),
        (b"/a/../b", b"/b"),
        (b"/a/%2e%2E/b", b"/b"),
        (b"/../../a", b"/a"),
        (b"/a/..", b"/"),
        (b"/a/b/..", b"/a/"),
        (b"/a/", b"/a/"),
        (b"/.a/..b/c.", b"/.a/..b/c."),
        (b"/100%/%zz/%4", b"/100%/%zz/%4"),
        (b"/%7Euser", b"/~user"),
        (b"/API/Internal", b"/API/Internal"),
    ],
)
def test_a_path_is_normalised_as_the_rfc_says(target: bytes, path: bytes) -> None:
    assert normalise(target) == path


@pytest.mark.parametrize(
    "target",
    [b"", b"*", b"api", b"http://host/api", b"host:443", b"?x", b"/a b", b"/a#b", b"/a?b#c"],
)
def test_a_target_that_is_no_path_is_refused(target: bytes) -> None:
    with pytest.raises(errors.BadRequest):
        normalise(target)


@given(
    st.binary(max_size=20),
    st.sampled_from([*range(0x21), 0x23, *range(0x7F, 0x100)]),
    st.binary(max_size=20),
)
def test_bytes_that_no_url_holds_are_refused_wherever_they_are(
    before: bytes, bad: int, after: bytes
) -> None:
    with pytest.raises(errors.BadRequest):
        normalise(b"/" + before + bytes([bad]) + after)


PIECES = [
    *(b"/", b"//", b"/", b"/", b"\\", b"%2f", b"%5C", b"%252F", b"%25252f"),
    *(b"api", b"%61pi", b"API", b"internal", b"%69nternal", b"%2569nternal", b"InterNal"),
    *(b".", b"..", b"%2e", b"%252e%2E", b"..;", b";", b";a=b", b"%3b", b"?internal"),
    *(b"devices", b"x", b"v1", b"%", b"%2", b"%zz"),
]
paths = st.lists(st.sampled_from(PIECES), max_size=9).map(
    lambda pieces: b"/" + b"".join(pieces).partition(b"?")[0]
)


@given(paths)
def test_normalising_agrees_with_the_standard_library(path: bytes) -> None:
    decoded = re.sub(
        rb"%([0-9A-Fa-f]{2})",
        lambda match: (
            byte
            if re.match(rb"[A-Za-z0-9._~-]", byte := bytes.fromhex(match[1].decode()))
            else match[0]
        ),
        path,
    )
    expected = posixpath.normpath(b"/" + decoded.lstrip(b"/"))
    assert normalise(path).rstrip(b"/") == expected.rstrip(b"/")


def readings(path: bytes) -> Iterator[bytes]:
    """What servers could make of `path`: every combination of habits that are out there."""
    for depth, slashes, backslash, params, merge in itertools.product(
        range(4), (True, False), (True, False), (True, False), (True, False)
    ):
        text = path
        for _ in range(depth):
            if slashes:
                text = unquote_to_bytes(text)
            else:
                parts = re.split(rb"(?i)(%2f|%5c)", text)
                text = b"".join(
                    part if number % 2 else unquote_to_bytes(part)
                    for number, part in enumerate(parts)
                )
        if backslash:
            text = text.replace(b"\\", b"/")
        segments: list[bytes] = []
        for segment in text.split(b"/")[1:]:
            name = segment.partition(b";")[0] if params else segment
            if name == b"..":
                if segments:
                    segments.pop()
            elif name != b"." and (name or not merge):
                segments.append(name)
        yield b"/" + b"/".join(segments)


@settings(max_examples=400)
@given(paths)
@example(b"/api/a%2fb/../internal/x")
@example(b"/api;x%2fy/internal")
@example(b"/api//../internal")
@example(b"/x/..;/api/%2569nternal")
def test_what_any_server_could_take_for_an_internal_api_is_seen(path: bytes) -> None:
    internal = [
        reading
        for reading in readings(path)
        if re.match(rb"/+api/+internal(/|$)", reading, re.IGNORECASE)
    ]
    if internal:
        assert reads_as_internal(path), internal[0]


@pytest.mark.parametrize(
    "path",
    [
        b"/api/internal",
        b"/api/internal/",
        b"/API/Internal/v1/x",
        b"/api/%69nternal/v1",
        b"/api//internal",
        b"/api/./internal",
        b"/x/../api/internal",
        b"/api%2Finternal",
        b"/api%2finternal%2fv1",
        b"/api%252Finternal",
        b"/api%25252Finternal",
        b"/api\\internal",
        b"/api%5Cinternal",
        b"/api;x/internal",
        b"/api/internal;x=y/v1",
        b"/api/..;/api/internal",
    ],
)
def test_internal_apis_are_recognised_in_every_disguise(path: bytes) -> None:
    assert reads_as_internal(path)


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/api",
        b"/api/internals",
        b"/api/internal.x",
        b"/apiinternal",
        b"/internal/api",
        b"/api/devices/v1/deployments/device/deployments/next",
        b"/api/devices/internal",
        b"/api/management/v1/useradm/users/internal%20user",
        b"/api/devices/v1/internal;x",
        b"/bucket/release..1.mender",
        b"/ui/#internal",
    ],
)
def test_other_paths_are_not_taken_for_internal(path: bytes) -> None:
    assert not reads_as_internal(path)


def test_any_prefix_can_be_asked_for() -> None:
    assert reads_as(b"/%61pi%2fx", (b"api",))
    assert not reads_as(b"/bucket/api/x", (b"api",))


def test_a_path_has_a_bound_and_a_query_has_not() -> None:
    assert normalise(b"/a?" + b"a" * 60_000) == b"/a"
    for piece in (b"a", b"%41", b"//", b"/."):
        with pytest.raises(errors.BadRequest, match="longer"):
            normalise(b"/" + piece * LONGEST_PATH)


def test_a_target_splits_at_the_first_question_mark() -> None:
    assert split(b"/a%2F?b?c=%20") == (b"/a%2F", b"b?c=%20")
    assert split(b"/a") == (b"/a", b"")
